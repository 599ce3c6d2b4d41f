//! The commands for a whole cluster, as a user types them: through the kubeconfig, by a
//! port-forward to every agent.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::{Agent, HUBBLE_PORT, Lab, binary};

use crate::common::{Record, eventually, get, lab, synced};

/// Where an agent of this machine, which would be asked first, would listen.
const LOCAL_SOCKET: &str = "/run/nodescope/agent.sock";

/// `nodescope`, told nothing but the cluster.
fn nodescope(lab: &Lab) -> Result<Command> {
    let kubeconfig = lab.kubeconfig_path().context("no API server")?;
    let mut command = Command::new(binary("NODESCOPE_BIN", "nodescope")?);
    command
        .env_remove("NODESCOPE_SERVER")
        .env("KUBECONFIG", &kubeconfig)
        .stdin(Stdio::null());
    Ok(command)
}

/// What it prints to standard output and standard error; it must succeed.
fn says(lab: &Lab, args: &[&str]) -> Result<(String, String)> {
    let out = nodescope(lab)?.args(args).output()?;
    let (text, told) = (
        String::from_utf8(out.stdout)?,
        String::from_utf8(out.stderr)?,
    );
    ensure!(out.status.success(), "{args:?}: {}: {told}", out.status);
    Ok((text, told))
}

/// Records that `observe` prints.
fn observed(lab: &Lab, args: &[&str]) -> Result<Vec<Record>> {
    let args = [&["observe", "--last", "100", "-o", "json"], args].concat();
    let (text, told) = says(lab, &args)?;
    ensure!(told.is_empty(), "{told}");
    text.lines()
        .map(|line| Ok(Record(serde_json::from_str(line)?)))
        .collect()
}

/// An agent that listens where the DaemonSet has it listen, and its pod.
fn agent(lab: &Lab, node: usize) -> Result<Agent> {
    let listen = format!("127.0.0.1:{HUBBLE_PORT}");
    let flags = ["--flow-interval", "500ms", "--listen-hubble", &listen];
    let agent = lab.start_agent(node, &flags)?;
    lab.announce_agent(node)?;
    Ok(agent)
}

#[test]
fn every_command_asks_the_whole_cluster_through_the_kubeconfig() -> Result<()> {
    let Some(lab) = lab("kc")? else {
        return Ok(());
    };
    if Path::new(LOCAL_SOCKET).exists() {
        println!("skipped: the agent behind {LOCAL_SOCKET} would be asked");
        return Ok(());
    }
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let nodes: Vec<&str> = lab
        .topology()
        .nodes
        .iter()
        .map(|node| &*node.name)
        .collect();
    let Err(error) = says(&lab, &["node"]) else {
        anyhow::bail!("there are no agents, and no error");
    };
    ensure!(
        error
            .to_string()
            .contains("app.kubernetes.io/name=nodescope"),
        "{error}"
    );
    let first = agent(&lab, 0)?;
    let mut second = agent(&lab, 1)?;
    synced(&first)?;
    synced(&second)?;
    get(&web.netns(), &format!("http://{}:8080/", api.ip()))?;

    // Both nodes saw it, and are shown in one stream by time.
    let pod = web.name();
    eventually("both nodes show the connection", || {
        let records = observed(&lab, &["--pod", &pod])?;
        let times: Vec<_> = records.iter().map(|one| one.0["time"].as_str()).collect();
        ensure!(times.is_sorted(), "{times:?}");
        let of = |node: &&str| records.iter().any(|one| one.0["node_name"] == **node);
        Ok(nodes.iter().all(of))
    })?;
    let narrowed = observed(&lab, &["--pod", &pod, "--node", nodes[1]])?;
    ensure!(!narrowed.is_empty(), "nothing of {}", nodes[1]);
    ensure!(narrowed.iter().all(|one| one.0["node_name"] == nodes[1]));

    // One connection, a leg on each node.
    let (text, _) = says(&lab, &["path", "--pod", &pod, "--to-port", "8080"])?;
    ensure!(nodes.iter().all(|node| text.contains(node)), "{text}");
    for command in [
        &["node"][..],
        &["nat", "--all"],
        &["nat", "--ports"],
        &["services", "--all"],
        &["probes"],
        &["drops"],
        &["check", "conntrack-headroom"],
    ] {
        let (text, told) = says(&lab, command)?;
        ensure!(
            !text.is_empty() && told.is_empty(),
            "{command:?}: {text}{told}"
        );
    }
    let (text, _) = says(&lab, &["node", "-o", "json"])?;
    ensure!(text.lines().count() == 2, "{text}");
    let (text, told) = says(
        &lab,
        &["node", "-o", "json", "--node", nodes[0], "--node", "other"],
    )?;
    ensure!(
        text.lines().count() == 1 && text.contains(nodes[0]),
        "{text}"
    );
    ensure!(
        told.contains("--node other") && told.contains(nodes[1]),
        "{told}"
    );
    // By address too, by the name that the agent gives.
    let sockets = [&first, &second].map(|agent| format!("unix://{}", agent.socket().display()));
    let (text, _) = says(
        &lab,
        &[
            "node",
            "-o",
            "json",
            "--server",
            &sockets.join(","),
            "--node",
            nodes[1],
        ],
    )?;
    ensure!(
        text.lines().count() == 1 && text.contains(nodes[1]),
        "{text}"
    );
    let Err(error) = says(&lab, &["node", "--node", "nowhere"]) else {
        anyhow::bail!("no agent is of that node, and no error");
    };
    ensure!(error.to_string().contains(nodes[0]), "{error}");

    as_kubectls_plugin(&lab, &nodes)?;
    // Whoever reads may leave.
    let mut left = nodescope(&lab)?
        .arg("node")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(left.stdout.take());
    let left = left.wait_with_output()?;
    ensure!(left.status.success() && left.stderr.is_empty(), "{left:?}");

    // A node that dies while its flows are shown is told of, and the others go on.
    let live = Following::start(&lab, &["--to-port", "8080"])?;
    let shows = |node: &str| {
        eventually(&format!("live flows of {node}"), || {
            get(&web.netns(), &format!("http://{}:8080/", api.ip()))?;
            let name = format!("\"node_name\":\"{node}\"");
            Ok(live.out().contains(&name))
        })
    };
    shows(nodes[0])?;
    shows(nodes[1])?;
    second.kill9()?;
    eventually("the dead node is told of", || {
        Ok(live.told().contains(nodes[1]))
    })?;
    let before = live.out().len();
    eventually("flows of the other node", || {
        get(&web.netns(), &format!("http://{}:8080/", api.ip()))?;
        Ok(live.out().len() > before)
    })?;
    drop(live);
    let (text, told) = says(&lab, &["observe", "--last", "3", "-o", "json"])?;
    ensure!(
        text.lines().count() == 3 && told.contains(nodes[1]),
        "{text}{told}"
    );
    ensure!(told.contains("refused"), "{told}");
    let (text, told) = says(&lab, &["node", "-o", "json"])?;
    ensure!(
        text.lines().count() == 1 && told.contains(nodes[1]),
        "{text}{told}"
    );
    Ok(())
}

/// `kubectl nodescope`, by the kubectl that is on the PATH.
fn as_kubectls_plugin(lab: &Lab, nodes: &[&str]) -> Result<()> {
    if Command::new("kubectl").arg("help").output().is_err() {
        println!("skipped: kubectl is not there, its plugin is not tried");
        return Ok(());
    }
    let folder = lab.run_dir().join("plugins");
    std::fs::create_dir_all(&folder)?;
    let program = binary("NODESCOPE_BIN", "nodescope")?;
    std::os::unix::fs::symlink(program, folder.join("kubectl-nodescope"))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path)))?;
    let kubectl = |args: &[&str]| -> Result<String> {
        let out = Command::new("kubectl")
            .args(args)
            .env("PATH", &path)
            .env("HOME", lab.run_dir())
            .env("KUBECONFIG", lab.kubeconfig_path().unwrap_or_default())
            .env_remove("NODESCOPE_SERVER")
            .output()?;
        let told = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "kubectl {args:?}: {told}");
        Ok(String::from_utf8(out.stdout)?)
    };
    let help = kubectl(&["nodescope", "observe", "--help"])?;
    ensure!(help.contains("Usage: kubectl nodescope observe"), "{help}");
    let text = kubectl(&["nodescope", "node", "-o", "compact"])?;
    ensure!(nodes.iter().all(|node| text.contains(node)), "{text}");
    Ok(())
}

/// `nodescope observe --follow`, killed when dropped.
struct Following {
    child: Child,
    out: Arc<Mutex<String>>,
    told: Arc<Mutex<String>>,
}

impl Following {
    fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        let mut child = nodescope(lab)?
            .args(["observe", "--follow", "-o", "json"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let out = gathered(child.stdout.take().context("no output")?);
        let told = gathered(child.stderr.take().context("no errors")?);
        Ok(Self { child, out, told })
    }

    fn out(&self) -> String {
        read(&self.out)
    }

    fn told(&self) -> String {
        read(&self.told)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has seen then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(text: &Mutex<String>) -> String {
    text.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The lines that come from `source`, as they come.
fn gathered(source: impl std::io::Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let gathered = Arc::clone(&text);
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            let mut text = gathered.lock().unwrap_or_else(PoisonError::into_inner);
            text.push_str(&line);
            text.push('\n');
        }
    });
    text
}
