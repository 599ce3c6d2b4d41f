//! The Hubble API of an agent on real packets: over TLS, for clients with a certificate, with the
//! nodes of the cluster as its API tells of them, and the same flows as on the socket.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nodescope::sink::proto::observer::get_flows_response::ResponseTypes;
use nodescope::sink::proto::observer::observer_client::ObserverClient;
use nodescope::sink::proto::observer::{GetFlowsRequest, ServerStatusRequest};
use nodescope::sink::proto::peer::ChangeNotificationType::{PeerAdded, PeerDeleted};
use nodescope::sink::proto::peer::peer_client::PeerClient;
use nodescope::sink::proto::peer::{ChangeNotification, NotifyRequest};
use nodescope_tests::lab::{self, Agent, Lab, Netns};
use nodescope_tests::pki::{Authority, Issued};
use serde_json::json;
use tonic::Streaming;
use tonic::transport::{self, Channel, ClientTlsConfig, Endpoint};

/// How long anything may take: far longer than it does.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the agents' certificates are for: a relay asks for a name that goes with the node's.
const NAMES: &str = "*.agents.example";

/// The agent's configuration: node, address of the API, files in a directory.
struct Serving<'a> {
    directory: &'a Path,
    servers: Authority,
    clients: Authority,
    address: String,
}

impl<'a> Serving<'a> {
    fn new(directory: &'a Path, address: String) -> Result<Self> {
        let made = Self {
            directory,
            servers: Authority::new("agents")?,
            clients: Authority::new("relays")?,
            address,
        };
        made.write(&made.servers.issue(&[NAMES])?)?;
        fs::write(directory.join("ca.crt"), made.clients.pem())?;
        Ok(made)
    }

    fn write(&self, issued: &Issued) -> Result<()> {
        fs::write(self.directory.join("tls.crt"), &issued.cert)?;
        fs::write(self.directory.join("tls.key"), &issued.key)?;
        Ok(())
    }

    fn start(&self, lab: &Lab) -> Result<Agent> {
        let file = |name: &str| self.directory.join(name).display().to_string();
        lab.start_agent(
            0,
            &[
                "--flow-interval",
                "500ms",
                "--listen-hubble",
                &self.address,
                "--tls-cert",
                &file("tls.crt"),
                "--tls-key",
                &file("tls.key"),
                "--tls-client-ca",
                &file("ca.crt"),
            ],
        )
    }

    /// The same flows by `nodescope observe` over TLS, and a word about what is missing without.
    fn by_command_line(&self, lab: &Lab, name: &str) -> Result<()> {
        let client = self.clients.issue(&["me"])?;
        for (file, content) in [
            ("servers.crt", &self.servers.pem()),
            ("me.crt", &client.cert),
            ("me.key", &client.key),
        ] {
            fs::write(self.directory.join(file), content)?;
        }
        let file = |name: &str| self.directory.join(name).display().to_string();
        let observe = |more: &[&str]| {
            let program = lab::binary("NODESCOPE_BIN", "nodescope")?;
            let words = ["observe", "--server", &self.address, "--port", "8080"];
            let argv = [&[program.as_str()], &words[..], more].concat();
            lab.node(0).run(argv)?.success()
        };
        let (ca, cert, key) = (file("servers.crt"), file("me.crt"), file("me.key"));
        let trusting = [
            "--tls",
            "--tls-server-name",
            name,
            "--tls-ca-cert-files",
            &ca,
        ];
        let known = [
            "--tls-client-cert-file",
            &cert,
            "--tls-client-key-file",
            &key,
        ];
        let closed = ["--verdict", "forwarded", "-o", "compact"];
        let mut said = String::new();
        lab::wait_for("closed connections by the command line", PATIENCE, || {
            let words = [&trusting[..], &known, &closed].concat();
            said = observe(&words).unwrap_or_else(|error| format!("{error:#}"));
            said.matches("TCP closed").count() == 3
        })
        .with_context(|| said.clone())?;
        // Without a certificate the agent hangs up, before or after it has said why.
        for (words, fault) in [
            (&trusting[..], &*self.address),
            (&["--tls", "--tls-server-name", name], "UnknownIssuer"),
        ] {
            let Err(error) = observe(words) else {
                bail!("served: {words:?}");
            };
            let said = format!("{error:#}");
            ensure!(said.contains(fault), "{said}");
        }
        Ok(())
    }

    /// A connection as a relay makes it: by the name that the peer service gave.
    async fn connect(
        &self,
        authority: &Authority,
        client: Option<&Issued>,
        name: &str,
    ) -> Result<Channel> {
        let ca = transport::Certificate::from_pem(authority.pem());
        let mut tls = ClientTlsConfig::new().ca_certificate(ca).domain_name(name);
        if let Some(own) = client {
            tls = tls.identity(transport::Identity::from_pem(&own.cert, &own.key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address))?;
        let channel = tokio::time::timeout(PATIENCE, endpoint.tls_config(tls)?.connect()).await??;
        // A client without a certificate learns so with its first request.
        let mut client = ObserverClient::new(channel.clone());
        let asked = client.server_status(ServerStatusRequest {});
        tokio::time::timeout(PATIENCE, asked).await??;
        Ok(channel)
    }
}

/// An agent's pod, as the API shows it.
fn pod(node: &str, ip: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("nodescope-{node}"), "namespace": "default",
            "labels": {"app.kubernetes.io/name": "nodescope"}
        },
        "spec": {
            "nodeName": node, "hostNetwork": true,
            "containers": [{
                "name": "agent", "image": "nodescope",
                "ports": [{"name": "hubble", "containerPort": 4244}]
            }]
        },
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}
    })
}

async fn notice(stream: &mut Streaming<ChangeNotification>) -> Result<ChangeNotification> {
    let next = tokio::time::timeout(PATIENCE, stream.message()).await;
    next.context("no word of a peer")??
        .context("the stream ended")
}

/// Connections of the closed flows that an agent has, when there are as many as asked for.
async fn closed(channel: Channel, wanted: usize) -> Result<BTreeSet<String>> {
    let request = GetFlowsRequest {
        number: u64::MAX,
        follow: true,
        ..GetFlowsRequest::default()
    };
    let mut stream = ObserverClient::new(channel)
        .get_flows(request)
        .await?
        .into_inner();
    let mut ids = BTreeSet::new();
    while ids.len() < wanted {
        let next = tokio::time::timeout(PATIENCE, stream.message()).await;
        let Some(response) = next.context("no more flows")?? else {
            bail!("the stream ended")
        };
        if let Some(ResponseTypes::Flow(flow)) = response.response_types
            && flow.summary.starts_with("TCP closed")
        {
            ids.insert(flow.uuid);
        }
    }
    Ok(ids)
}

/// Runs `work` in the node's network, where the agent listens.
fn inside(node: &Netns, work: impl AsyncFnOnce() -> Result<()> + Send) -> Result<()> {
    node.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(work())
    })?
}

#[test]
fn a_relay_finds_every_agent_and_gets_the_flows_of_real_packets_over_tls() -> Result<()> {
    if !lab::is_root() {
        println!("skipped: needs root for network namespaces and eBPF");
        return Ok(());
    }
    let lab = Lab::builder("hubble").start()?;
    let nodes: Vec<_> = lab.topology().nodes.iter().collect();
    let (own, other) = (nodes[0], nodes[1]);
    let (own_ip, other_ip) = (own.ip.to_string(), other.ip.to_string());
    let api = lab.control_plane()?;
    for (node, ip) in [(&own.name, &own_ip), (&other.name, &other_ip)] {
        api.apply(pod(node, ip))?;
    }
    let directory = tempfile::tempdir()?;
    let serving = Serving::new(directory.path(), format!("{own_ip}:4244"))?;
    let agent = serving.start(&lab)?;
    let target = lab.pod("web2")?.ip();
    for _ in 0..3 {
        let url = format!("http://{target}:8080/");
        lab.pod("web")?
            .netns()
            .run_lab(["http-get", &url])?
            .success()?;
    }
    let name = format!("{}.agents.example", own.name);
    serving.by_command_line(&lab, &name)?;
    let socket = format!("unix://{}", agent.socket().display());
    inside(&lab.node(0), async || {
        let local = Endpoint::from_shared(socket)?.connect().await?;
        let mut peers = PeerClient::new(local.clone());
        let mut peers = peers.notify(NotifyRequest {}).await?.into_inner();
        // This node at once, the other as soon as the API has told of it.
        let mut names = BTreeSet::new();
        while names.len() < 2 {
            let told = notice(&mut peers).await?;
            let tls = told
                .tls
                .clone()
                .context("no name to check the certificate by")?;
            let ip = if told.name == own.name {
                &own_ip
            } else {
                &other_ip
            };
            ensure!(told.address == format!("{ip}:4244"), "{told:?}");
            ensure!(
                tls.server_name == format!("{}.agents.example", told.name),
                "{told:?}"
            );
            ensure!(told.r#type() == PeerAdded, "{told:?}");
            names.insert(told.name);
        }
        let (relay, stranger) = (
            serving.clients.issue(&["relay"])?,
            serving.servers.issue(&["relay"])?,
        );
        let channel = serving
            .connect(&serving.servers, Some(&relay), &name)
            .await?;
        let (there, here) = (closed(channel.clone(), 3).await?, closed(local, 3).await?);
        ensure!(there == here, "{there:?} over TLS, {here:?} on the socket");
        for client in [None, Some(&stranger)] {
            let taken = serving.connect(&serving.servers, client, &name).await;
            ensure!(taken.is_err(), "taken with {client:?}");
        }
        // Another certificate, the agent running on: for who connects now, and nobody is cut off.
        let renewed = Authority::new("renewed")?;
        serving.write(&renewed.issue(&[NAMES])?)?;
        serving.connect(&renewed, Some(&relay), &name).await?;
        ensure!(
            serving
                .connect(&serving.servers, Some(&relay), &name)
                .await
                .is_err()
        );
        ensure!(closed(channel, 3).await? == here);
        api.delete("Pod", "default", &format!("nodescope-{}", other.name))?;
        let told = notice(&mut peers).await?;
        ensure!(
            told.r#type() == PeerDeleted && told.name == other.name,
            "{told:?}"
        );
        Ok(())
    })
}
