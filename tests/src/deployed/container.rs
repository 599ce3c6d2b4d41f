//! A pod of the DaemonSet as a container on a lab's node: podman is told what the pod's `spec`
//! tells the kubelet.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{PodTemplate, run, texts};
use crate::lab::{Agent, Lab};

/// Where a pod finds its account (Kubernetes documentation, "Configure Service Accounts").
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// In an image's store: podman's configuration, and the profile of system calls.
const CONF: &str = "containers.conf";
const SECCOMP: &str = "seccomp.json";

/// Where Debian's containers-common has podman's default profile.
const DEFAULT_SECCOMP: &str = "/usr/share/containers/seccomp.json";

/// An image in a store of its own.
#[derive(Debug)]
pub struct Image {
    store: tempfile::TempDir,
    name: String,
}

impl Image {
    /// Takes an image from an OCI archive.
    ///
    /// # Errors
    /// podman cannot read it.
    pub fn load(archive: &Path) -> Result<Self> {
        let store = tempfile::tempdir()?;
        fs::write(
            store.path().join(CONF),
            "[containers]\ndefault_sysctls = []\n",
        )?;
        fs::write(store.path().join(SECCOMP), seccomp()?)?;
        let mut load = podman(store.path());
        let said = run(load.arg("load").arg("--input").arg(archive))?;
        let name = said.trim().rsplit(' ').next().unwrap_or_default();
        ensure!(!name.is_empty(), "podman names no image: {said}");
        Ok(Self {
            name: name.to_owned(),
            store,
        })
    }

    /// Runs the image's program to its end.
    ///
    /// # Errors
    /// podman cannot.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = podman(self.store.path());
        command.args(["run", "--rm", "--network", "none"]);
        command.args(limits()?);
        run(command.arg(&self.name).args(arguments))
    }
}

fn podman(store: &Path) -> Command {
    let mut command = Command::new("env");
    command.args(podman_words(store));
    command
}

/// podman and what comes before it: its configuration, in which containers change no sysctl, for
/// the network that they are in is a node's.
fn podman_words(store: &Path) -> Vec<String> {
    let conf = format!("CONTAINERS_CONF={}", store.join(CONF).display());
    let mut words = vec![conf, "podman".to_owned()];
    words.extend(podman_options(store));
    words
}

/// podman's default profile, with what newer container runtimes let through to who has CAP_BPF and
/// CAP_PERFMON (containerd 1.7): Debian's podman is older than these.
fn seccomp() -> Result<String> {
    let text = fs::read_to_string(DEFAULT_SECCOMP)
        .with_context(|| format!("reading {DEFAULT_SECCOMP}"))?;
    let mut profile: Value = serde_json::from_str(&text)?;
    let calls = profile["syscalls"].as_array_mut();
    let calls = calls.context("a profile without calls")?;
    const NEWER: [&str; 2] = ["bpf", "perf_event_open"];
    for rule in calls.iter_mut() {
        if let Some(names) = rule["names"].as_array_mut() {
            names.retain(|name| !NEWER.iter().any(|one| name == one));
        }
    }
    calls.retain(|rule| rule["names"] != json!([]));
    calls.push(json!({
        "names": NEWER, "action": "SCMP_ACT_ALLOW", "args": [],
        "comment": "", "includes": {"caps": ["CAP_BPF"]}, "excludes": {},
    }));
    Ok(profile.to_string())
}

/// A store of its own, and nothing of systemd's, which runs neither in tests nor in CI.
fn podman_options(store: &Path) -> Vec<String> {
    let folder = |name: &str| store.join(name).display().to_string();
    [
        ["--storage-driver", "vfs"],
        ["--root", &folder("root")],
        ["--runroot", &folder("run")],
        ["--tmpdir", &folder("tmp")],
        ["--cgroup-manager", "cgroupfs"],
        ["--runtime", "runc"],
        ["--events-backend", "none"],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect()
}

/// podman would raise these, which takes a right that a test's machine may not have; it lowers its
/// own limit of processes to less than a machine's.
fn limits() -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/self/limits")?;
    const MOST: u32 = 4096;
    let hard = |name: &str| -> Result<u32> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let hard = line.and_then(|line| line.split_whitespace().nth(1));
        let hard = hard.with_context(|| format!("no {name}"))?;
        Ok(hard.parse().unwrap_or(MOST).min(MOST))
    };
    let (files, processes) = (hard("Max open files")?, hard("Max processes")?);
    Ok(vec![
        format!("--ulimit=nofile={files}:{files}"),
        format!("--ulimit=nproc={processes}:{processes}"),
    ])
}

/// An agent in a container; removed when dropped.
#[derive(Debug)]
pub struct PodAgent {
    /// The agent; its process is podman's, which passes signals on.
    pub agent: Agent,
    store: PathBuf,
    name: String,
}

impl Drop for PodAgent {
    fn drop(&mut self) {
        let mut remove = podman(&self.store);
        let _ = remove
            .args(["rm", "--force", "--time", "0", &self.name])
            .output();
    }
}

impl PodTemplate {
    /// Starts the pod on node `index` of a lab, with the account of the agent where the lab has an
    /// API server, and waits until it is ready.
    ///
    /// # Errors
    /// The pod wants something that a lab's node does not have, or the agent does not start.
    pub fn start(&self, lab: &Lab, index: usize, image: &Image) -> Result<PodAgent> {
        let node = &lab.topology().nodes[index].name;
        let name = format!("{}-agent", lab.node(index).name());
        let files = lab.run_dir().join(format!("pod{index}"));
        fs::create_dir_all(&files)?;
        let mut argv = vec!["env".to_owned()];
        argv.extend(podman_words(image.store.path()));
        argv.extend(["run", "--rm", "--replace", "--name", &name].map(str::to_owned));
        argv.extend(limits()?);
        ensure!(
            self.spec["hostNetwork"] == true,
            "not in the node's network"
        );
        ensure!(self.spec["hostPID"].is_null() && self.spec["hostIPC"].is_null());
        let netns = lab.node(index).path();
        argv.push(format!("--network=ns:{}", netns.display()));
        argv.extend(self.context(&image.store.path().join(SECCOMP))?);
        argv.extend(self.environment(node)?);
        argv.extend(self.volumes(lab, &files)?);
        if let Some(path) = lab.node_kubeconfig_path() {
            argv.extend(account(&path, &files)?);
        }
        argv.push(image.name.clone());
        argv.extend(
            texts(&self.container()["args"])
                .iter()
                .map(|&arg| arg.to_owned()),
        );
        let socket = files.join("run/agent.sock");
        let mut pod = PodAgent {
            agent: lab.adopt_agent(index, argv, socket)?,
            store: image.store.path().to_owned(),
            name,
        };
        pod.agent.wait_ready()?;
        Ok(pod)
    }

    /// The security context, word by word; a word that is not known here is an error.
    fn context(&self, seccomp: &Path) -> Result<Vec<String>> {
        let context = &self.container()["securityContext"];
        let mut options = Vec::new();
        for (key, value) in context.as_object().context("no securityContext")? {
            match (key.as_str(), value) {
                ("runAsUser", user) => options.push(format!("--user={user}")),
                ("allowPrivilegeEscalation", Value::Bool(false)) => {
                    options.push("--security-opt=no-new-privileges".to_owned());
                }
                ("readOnlyRootFilesystem", Value::Bool(true)) => {
                    // Not even the folders in memory that podman would add.
                    options.extend(["--read-only", "--read-only-tmpfs=false"].map(str::to_owned));
                }
                ("seccompProfile", profile) if profile["type"] == "RuntimeDefault" => {
                    options.push(format!("--security-opt=seccomp={}", seccomp.display()));
                }
                ("capabilities", all) => {
                    let words = [("drop", "--cap-drop"), ("add", "--cap-add")];
                    for (list, option) in words {
                        let each = texts(&all[list]);
                        options.extend(each.iter().map(|one| format!("{option}={one}")));
                    }
                }
                (key, value) => bail!("the lab cannot give a container {key}: {value}"),
            }
        }
        let memory = &self.container()["resources"]["limits"]["memory"];
        if let Some(mebibytes) = memory.as_str().and_then(|text| text.strip_suffix("Mi")) {
            options.push(format!("--memory={mebibytes}m"));
        }
        Ok(options)
    }

    fn environment(&self, node: &str) -> Result<Vec<String>> {
        let variables = self.container()["env"].as_array().into_iter().flatten();
        let mut options = Vec::new();
        for variable in variables {
            let name = variable["name"].as_str().unwrap_or_default();
            let field = &variable["valueFrom"]["fieldRef"]["fieldPath"];
            let value = match (variable["value"].as_str(), field.as_str()) {
                (Some(value), _) => value,
                (None, Some("spec.nodeName")) => node,
                _ => bail!("the lab cannot give a container the variable {variable}"),
            };
            options.push(format!("--env={name}={value}"));
        }
        Ok(options)
    }

    /// The folders of the node and the ConfigMaps that it mounts.
    fn volumes(&self, lab: &Lab, files: &Path) -> Result<Vec<String>> {
        let volumes = self.spec["volumes"].as_array().into_iter().flatten();
        let mut options = Vec::new();
        for volume in volumes {
            let from = match (&volume["hostPath"]["path"], &volume["configMap"]["name"]) {
                (Value::String(path), _) => host_path(lab, files, path)?,
                (_, Value::String(name)) => self.config(name, files)?,
                _ => bail!("the lab has no volume {volume}"),
            };
            let mounts = self.container()["volumeMounts"].as_array();
            let mounts = mounts.into_iter().flatten();
            for mount in mounts.filter(|mount| mount["name"] == volume["name"]) {
                let to = mount["mountPath"].as_str().context("no mountPath")?;
                let read_only = if mount["readOnly"] == true { ":ro" } else { "" };
                options.push(format!("--volume={}:{to}{read_only}", from.display()));
            }
        }
        Ok(options)
    }

    fn config(&self, name: &str, files: &Path) -> Result<PathBuf> {
        let map = self.maps.iter().find(|map| map["metadata"]["name"] == name);
        let map = map.with_context(|| format!("there is no ConfigMap {name}"))?;
        let folder = files.join(name);
        fs::create_dir_all(&folder)?;
        for (file, text) in map["data"].as_object().into_iter().flatten() {
            fs::write(folder.join(file), text.as_str().unwrap_or_default())?;
        }
        Ok(folder)
    }
}

/// What stands for a folder of the node.
fn host_path(lab: &Lab, files: &Path, path: &str) -> Result<PathBuf> {
    match path {
        "/sys/fs/bpf" => {
            let folder = lab.bpffs()?;
            Ok(folder.parent().unwrap_or(&folder).to_owned())
        }
        "/run/nodescope" => {
            let folder = files.join("run");
            fs::create_dir_all(&folder)?;
            Ok(folder)
        }
        other => bail!("a lab's node has no folder {other}"),
    }
}

/// A service account from a kubeconfig, as the kubelet mounts it, and where the API is.
fn account(kubeconfig: &Path, files: &Path) -> Result<Vec<String>> {
    let config: Value = serde_yaml_ng::from_str(&fs::read_to_string(kubeconfig)?)?;
    let cluster = &config["clusters"][0]["cluster"];
    let server = cluster["server"].as_str().context("no server")?;
    let (host, port) = server
        .strip_prefix("https://")
        .and_then(|rest| rest.rsplit_once(':'))
        .with_context(|| format!("the server is {server}"))?;
    let authority = cluster["certificate-authority-data"].as_str();
    let authority = data_encoding::BASE64.decode(authority.context("no authority")?.as_bytes())?;
    let token = config["users"][0]["user"]["token"].as_str();
    let folder = files.join("account");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("ca.crt"), authority)?;
    fs::write(folder.join("token"), token.context("no token")?)?;
    fs::write(folder.join("namespace"), "nodescope")?;
    Ok(vec![
        format!("--volume={}:{ACCOUNT}:ro", folder.display()),
        format!("--env=KUBERNETES_SERVICE_HOST={host}"),
        format!("--env=KUBERNETES_SERVICE_PORT={port}"),
    ])
}
