//! The keeper: the process that holds a control plane's servers.
//!
//! It announces them with one line of JSON on its standard output, and lives until its standard
//! input ends, which it does when the process that started it is gone.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::assets::Assets;
use super::client::ApiClient;
use super::credentials::{Credentials, Files};
use crate::lab::relay::Relay;
use crate::lab::run_dir::{RunDir, remove_namespaces};
use crate::lab::{Netns, Proc, names, netns};

/// Where the API server listens in its namespace.
const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);

/// How long the servers may take: five seconds on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);

const ETCD_CLIENTS: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";

/// What newer versions do without being told: nodes and endings in EndpointSlices.
const FEATURES: &str =
    "--feature-gates=EndpointSliceNodeName=true,EndpointSliceTerminatingCondition=true";

/// The controllers that a cluster without kubelets and without a scheduler has work for.
const CONTROLLERS: &str =
    "--controllers=endpoint,endpointslice,namespace,serviceaccount,replicaset,deployment";

/// The API server's log of requests, in the control plane's directory.
const AUDIT: &str = "audit.log";

/// Of the agent's requests, that there was one; of nobody else's.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    users: [system:serviceaccount:nodescope:nodescope]
  - level: None
";

/// What the keeper says once the API server is ready.
#[derive(Debug, Serialize, Deserialize)]
pub struct Announcement {
    /// Where the API server answers on the machine.
    pub address: SocketAddr,
    /// How to be let in.
    pub credentials: Credentials,
    /// The API server's log of what the agent asked for, a JSON object a line.
    pub audit: PathBuf,
}

/// The servers, and what is removed with them. Fields are dropped in their order.
struct Held {
    relay: Relay,
    servers: Vec<Proc>,
    _namespace: Namespace,
    run: RunDir,
}

/// Removes the namespaces of the control plane `name` when dropped.
struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove_namespaces(&self.0) {
            eprintln!("removing the control plane {}: {error:#}", self.0);
        }
    }
}

/// Runs a control plane called `name`, with ClusterIPs of `services`, until standard input ends, then removes it.
///
/// # Errors
/// A program is missing, or a server does not become ready.
pub fn keep(name: &str, services: Ipv4Net) -> Result<()> {
    let assets = Assets::required()?;
    let (mut held, credentials, controllers) = start(name, services, &assets)?;
    wait_ready(&mut held, &credentials)?;
    // Not before: they give up when the API server is not healthy within ten seconds.
    let space = Netns::named(names::namespace(name, "control"));
    let log = held.run.path().join("logs/kube-controller-manager");
    held.servers.push(Proc::start(&space, &controllers, &log)?);
    let announcement = Announcement {
        address: held.relay.address(),
        credentials,
        audit: held.run.path().join(AUDIT),
    };
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", serde_json::to_string(&announcement)?)?;
    stdout.flush()?;
    // The process that started this writes nothing: only the end counts.
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
    Ok(())
}

/// Starts etcd and the API server; gives the command line of the controllers as well.
fn start(
    name: &str,
    services: Ipv4Net,
    assets: &Assets,
) -> Result<(Held, Credentials, Vec<String>)> {
    names::check_lab_name(name)?;
    let run = RunDir::take(name)?;
    let dir = run.path().to_owned();
    std::fs::create_dir_all(dir.join("logs"))?;
    let (credentials, files) = Credentials::make(&dir)?;
    let admin = dir.join("controllers.kubeconfig");
    let url = format!("https://{API}");
    std::fs::write(&admin, credentials.kubeconfig(&url, &credentials.admin))?;

    let space = names::namespace(name, "control");
    let namespace = Namespace(name.to_owned());
    netns::create(std::slice::from_ref(&space))?;
    let space = Netns::named(space);
    space.ip(&["link set lo up".to_owned()])?;
    let data = dir.join("etcd").display().to_string();
    let spawn =
        |what: &str, argv: Vec<String>| Proc::start(&space, &argv, &dir.join("logs").join(what));
    let servers = vec![
        spawn("etcd", etcd(&assets.etcd.display().to_string(), &data))?,
        spawn(
            "kube-apiserver",
            apiserver(
                &assets.apiserver.display().to_string(),
                services,
                &files,
                &dir,
            )?,
        )?,
    ];
    let controllers = vec![
        assets.controller_manager.display().to_string(),
        format!("--kubeconfig={}", admin.display()),
        "--bind-address=127.0.0.1".to_owned(),
        "--port=0".to_owned(),
        "--leader-elect=false".to_owned(),
        format!("--cert-dir={data}-controllers"),
        format!(
            "--service-account-private-key-file={}",
            files.account_key.display()
        ),
        "--use-service-account-credentials=false".to_owned(),
        CONTROLLERS.to_owned(),
        FEATURES.to_owned(),
    ];
    let held = Held {
        relay: Relay::into_netns(&space, API)?,
        servers,
        _namespace: namespace,
        run,
    };
    Ok((held, credentials, controllers))
}

/// etcd without a disk's guarantees: nothing of it outlives the lab.
fn etcd(program: &str, data: &str) -> Vec<String> {
    vec![
        program.to_owned(),
        "--unsafe-no-fsync".to_owned(),
        format!("--data-dir={data}"),
        format!("--listen-client-urls={ETCD_CLIENTS}"),
        format!("--advertise-client-urls={ETCD_CLIENTS}"),
        format!("--listen-peer-urls={ETCD_PEERS}"),
        format!("--initial-advertise-peer-urls={ETCD_PEERS}"),
        format!("--initial-cluster=default={ETCD_PEERS}"),
    ]
}

fn apiserver(program: &str, services: Ipv4Net, files: &Files, dir: &Path) -> Result<Vec<String>> {
    let policy = dir.join("audit.yaml");
    std::fs::write(&policy, AUDIT_POLICY)?;
    let mut argv = vec![
        program.to_owned(),
        format!("--etcd-servers={ETCD_CLIENTS}"),
        format!("--service-cluster-ip-range={services}"),
    ];
    for (flag, path) in [
        ("--tls-cert-file", &files.certificate),
        ("--tls-private-key-file", &files.key),
        ("--token-auth-file", &files.tokens),
        ("--service-account-signing-key-file", &files.account_key),
        ("--service-account-key-file", &files.account_public_key),
        ("--audit-policy-file", &policy),
        ("--audit-log-path", &dir.join(AUDIT)),
    ] {
        argv.push(format!("{flag}={}", path.display()));
    }
    let rest = [
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--secure-port=6443",
        "--authorization-mode=RBAC",
        "--anonymous-auth=false",
        "--service-account-issuer=https://kubernetes.default.svc",
        // There is no kubelet to mount tokens, and none to take the taint of new nodes away.
        "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
        // Nobody in the lab resolves the names of nodes.
        "--kubelet-preferred-address-types=InternalIP",
        // The lab writes the endpoints of the service kubernetes itself.
        "--endpoint-reconciler-type=none",
        "--allow-privileged=true",
        FEATURES,
    ];
    argv.extend(rest.map(str::to_owned));
    Ok(argv)
}

/// Waits for `/readyz`, which says ok once the built-in roles are there.
fn wait_ready(held: &mut Held, credentials: &Credentials) -> Result<()> {
    let url = format!("https://{}", held.relay.address());
    let client = ApiClient::new(&credentials.kubeconfig(&url, &credentials.admin))?;
    let start = Instant::now();
    loop {
        let error = match client.text("/readyz") {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        for server in &mut held.servers {
            if !server.is_running() {
                bail!("a server ended early: {}", last_lines(&server.stderr()));
            }
        }
        if start.elapsed() > START_TIMEOUT {
            let logs = held.run.path().join("logs");
            return Err(error).with_context(|| {
                format!(
                    "not ready after {START_TIMEOUT:?}; logs in {}",
                    logs.display()
                )
            });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Why a server ended: the message that it ended with, which the stacks of its threads may
/// follow, or else the end of its log.
fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.trim().lines().collect();
    // As klog writes what is fatal: `F0105 08:00:00.000000 …`.
    let fatal = |line: &&str| {
        let digits = line.strip_prefix('F').and_then(|rest| rest.get(..4));
        digits.is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit())) || line.starts_with("panic:")
    };
    match lines.iter().position(fatal) {
        Some(at) => lines[at].to_owned(),
        None => lines[lines.len().saturating_sub(5)..].join("\n"),
    }
}
