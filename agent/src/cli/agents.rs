//! An agent to ask, and the connection to it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use hyper_util::rt::TokioIo;
use tokio::sync::OnceCell;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Uri};
use tower::service_fn;

use super::failure::tell;
use crate::cluster::AgentPod;

/// An agent that does not answer the connection within this is reported.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An agent that has not begun to answer within this is reported.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a host is looked for on a connection that is silent.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// How often an agent behind a tunnel, whose end nobody else notices, is asked for a sign of life
/// while it has something to send, and how long it has for that.
const TUNNEL_KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));

/// An agent to ask. Its connection is made when it is first asked for, and shared.
#[derive(Clone)]
pub struct Agent(Arc<Inner>);

struct Inner {
    name: String,
    node: Option<String>,
    way: Way,
    /// TLS, on TCP and through a port-forward.
    tls: Option<ClientTlsConfig>,
    channel: OnceCell<Channel>,
}

/// How an agent is reached.
enum Way {
    /// `unix:///PATH` or `HOST:PORT`.
    Address(String),
    /// By a port-forward to its pod.
    Pod(AgentPod),
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name)
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Agent({})", self.0.name)
    }
}

impl Agent {
    /// The agent at an address: `unix:///PATH` or `HOST:PORT`.
    pub fn at(address: String) -> Self {
        Self::new(address.clone(), None, Way::Address(address))
    }

    /// The agent in a pod.
    pub fn behind(pod: AgentPod) -> Self {
        let node = Some(pod.node.clone());
        Self::new(format!("node {}", pod.node), node, Way::Pod(pod))
    }

    fn new(name: String, node: Option<String>, way: Way) -> Self {
        Self(Arc::new(Inner {
            name,
            node,
            way,
            tls: None,
            channel: OnceCell::new(),
        }))
    }

    /// The same agent, spoken to over TLS if there is a configuration for it.
    #[must_use]
    pub fn over(mut self, tls: Option<ClientTlsConfig>) -> Self {
        // Nobody else has it yet; who had would go on as before.
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.tls = tls;
        }
        self
    }

    /// The agent that is there now, by a connection of its own: for who lost the one to this.
    ///
    /// # Errors
    /// When the cluster has no agent on its node.
    pub async fn anew(&self) -> anyhow::Result<Self> {
        let inner = &self.0;
        let again = match &inner.way {
            Way::Address(address) => Self::at(address.clone()),
            Way::Pod(pod) => Self::behind(pod.successor().await?),
        };
        Ok(again.over(inner.tls.clone()))
    }

    /// The name of its node, where that is known before it is asked.
    pub fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }

    /// What its node said of a port-forward that failed.
    fn failure(&self) -> Option<String> {
        match &self.0.way {
            Way::Pod(pod) => pod.failure(),
            Way::Address(_) => None,
        }
    }

    /// The connection.
    ///
    /// # Errors
    /// When the address is none, or nothing answers there.
    pub async fn channel(&self) -> anyhow::Result<Channel> {
        let made = self.0.channel.get_or_try_init(|| self.connect()).await?;
        Ok(made.clone())
    }

    async fn connect(&self) -> anyhow::Result<Channel> {
        match &self.0.way {
            Way::Address(address) => connect(address, self.0.tls.as_ref()).await,
            Way::Pod(pod) => {
                if let Some(down) = &pod.down {
                    bail!(
                        "{self}: its agent, pod {}/{}, {down}",
                        pod.namespace,
                        pod.name
                    );
                }
                self.forward(pod).await
            }
        }
    }

    async fn forward(&self, pod: &AgentPod) -> anyhow::Result<Channel> {
        let (every, patience) = TUNNEL_KEEPALIVE;
        let endpoint = match &self.0.tls {
            None => Endpoint::from_static("http://agent"),
            Some(tls) => Endpoint::from_static("https://agent").tls_config(tls.clone())?,
        };
        let endpoint = endpoint
            .http2_keep_alive_interval(every)
            .keep_alive_timeout(patience);
        let pod = pod.clone();
        let tunnel = service_fn(move |_: Uri| {
            let pod = pod.clone();
            async move { pod.open().await.map(TokioIo::new) }
        });
        let connected = endpoint.connect_with_connector(tunnel);
        match tokio::time::timeout(CONNECT_TIMEOUT * 2, connected).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => bail!("{self}: {}", root_cause(&error)),
            Err(_) => bail!("{self}: no port-forward to its agent (timed out): is the node alive?"),
        }
    }
}

/// Connects to an address.
async fn connect(address: &str, tls: Option<&ClientTlsConfig>) -> anyhow::Result<Channel> {
    let endpoint = endpoint(address, tls)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(Some(TCP_KEEPALIVE));
    // The timeout of the endpoint covers TCP; this one also a peer that accepts and is silent.
    match tokio::time::timeout(CONNECT_TIMEOUT * 2, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => {
            let cause = root_cause(&error);
            bail!("{address}: no agent answers ({cause}): is one running there? see --server")
        }
        Err(_) => bail!("{address}: no agent answers (timed out): is one running there?"),
    }
}

fn endpoint(address: &str, tls: Option<&ClientTlsConfig>) -> anyhow::Result<Endpoint> {
    let local = address.starts_with("unix:");
    let uri = if let Some(path) = address.strip_prefix("unix:") {
        if !path.trim_start_matches("//").starts_with('/') {
            bail!("{address}: the path of a socket starts with /: write unix:///PATH");
        }
        address.to_owned()
    } else {
        let host_port = address.strip_prefix("tcp://").unwrap_or(address);
        let port = host_port
            .rsplit_once(':')
            .map(|(host, port)| (host, port.parse::<u16>()));
        let Some((host, Ok(_))) = port else {
            bail!("{address}: not an agent's address: write unix:///PATH or HOST:PORT");
        };
        if host.is_empty() || host.contains('/') {
            bail!("{address}: not an agent's address: write unix:///PATH or HOST:PORT");
        }
        format!(
            "{}://{host_port}",
            if tls.is_some() { "https" } else { "http" }
        )
    };
    let endpoint = Endpoint::from_shared(uri).with_context(|| {
        format!("{address}: not an agent's address: write unix:///PATH or HOST:PORT")
    })?;
    match tls.filter(|_| !local) {
        Some(tls) => endpoint
            .tls_config(tls.clone())
            .map_err(|error| anyhow!("{address}: TLS: {}", root_cause(&error))),
        None => Ok(endpoint),
    }
}

/// What the system said, without the layers that passed it on.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// What agents answered.
#[derive(Debug)]
pub struct Answers<T> {
    /// In the order of the agents that were asked.
    pub given: Vec<T>,
    /// Agents that failed; why has been told.
    pub silent: Vec<Agent>,
}

/// Asks all agents at once, and says what became of each, in their order.
pub async fn ask_each<T>(
    agents: &[Agent],
    ask: impl AsyncFn(&Agent) -> anyhow::Result<T>,
) -> Vec<anyhow::Result<T>> {
    let one = async |agent: &Agent| {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask(agent)).await;
        answer.unwrap_or_else(|_| {
            let patience = ANSWER_TIMEOUT.as_secs();
            Err(anyhow!(
                "{agent}: the agent did not answer within {patience} s"
            ))
        })
    };
    futures::future::join_all(agents.iter().map(one)).await
}

/// Asks all agents at once. One that fails is told about.
///
/// # Errors
/// When all fail.
pub async fn ask_all<T>(
    agents: &[Agent],
    ask: impl AsyncFn(&Agent) -> anyhow::Result<T>,
) -> anyhow::Result<Answers<T>> {
    let answers = ask_each(agents, ask).await;
    let (mut given, mut silent, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for (agent, answer) in agents.iter().zip(answers) {
        match answer {
            Ok(answer) => given.push(answer),
            Err(error) => {
                silent.push(agent.clone());
                failures.push(error);
            }
        }
    }
    let last = given.is_empty().then(|| failures.pop()).flatten();
    for failure in &failures {
        tell(&format_args!("{failure:#}"));
    }
    last.map_or(Ok(Answers { given, silent }), Err)
}

/// What the HTTP/2 client makes of a TLS alert, whose first bytes would be those of a frame longer
/// than any may be (RFC 9113, section 4.2).
const NO_FRAME: &str = "frame with invalid size";

/// What an agent answered instead of what was asked for.
pub fn refusal(agent: &Agent, status: &tonic::Status) -> anyhow::Error {
    match status.code() {
        tonic::Code::InvalidArgument => anyhow!("{}", status.message()),
        tonic::Code::Unimplemented => anyhow!(
            "{agent}: does not serve this ({}): is it a nodescope agent of this version?",
            status.message()
        ),
        code => {
            if let Some(said) = agent.failure() {
                return anyhow!("{agent}: its agent cannot be reached: {said}");
            }
            let mut cause = status.message().to_owned();
            if let Some(source) = std::error::Error::source(status) {
                cause = format!("{cause}: {}", root_cause(source));
            }
            if agent.0.tls.is_none() && cause.contains(NO_FRAME) {
                return anyhow!("{agent}: no agent without TLS: does it want --tls?");
            }
            anyhow!("{agent}: the agent stopped answering ({code}: {cause})")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use nodescope_tests::pki::Authority;

    use super::*;
    use crate::config::Tls as Files;
    use crate::sink::observer::{self, Certificates, Config, Network, Observer};
    use crate::sink::proto::node::DescribeResponse;
    use crate::sink::proto::observer::GetNodesRequest;
    use crate::sink::proto::observer::observer_client::ObserverClient;

    #[tokio::test]
    async fn who_forgot_tls_is_told() -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        let [cert, key] = ["cert", "key"].map(|name| directory.path().join(name));
        let issued = Authority::new("agents")?.issue(&["localhost"])?;
        std::fs::write(&cert, &issued.cert)?;
        std::fs::write(&key, &issued.key)?;
        let files = Files {
            cert,
            key,
            client_ca: None,
        };
        let certificates = Arc::new(Certificates::load(files)?);
        let listener = observer::bind_tcp("127.0.0.1:0".parse()?).await?;
        let listen = listener.local_addr()?;
        let network = Network {
            listen,
            own: None,
            tls: Some(certificates),
        };
        let config = Config {
            node: "node-1".to_owned(),
            network: Some(network),
            capacity: 1,
        };
        let server = Observer::new(config, DescribeResponse::default);
        let agent = Agent::at(listen.to_string());
        let serving = observer::serve_tcp(listener, server, pending());
        let serving = tokio::spawn(serving);
        let mut client = ObserverClient::new(agent.channel().await?);
        let Err(status) = client.get_nodes(GetNodesRequest {}).await else {
            panic!("answered in plain text");
        };
        let said = refusal(&agent, &status).to_string();
        assert!(said.ends_with("does it want --tls?"), "{said}: {status:?}");
        serving.abort();
        Ok(())
    }

    #[test]
    fn addresses_of_agents() {
        for good in [
            "unix:///run/x.sock",
            "unix:/run/x.sock",
            "localhost:4244",
            "[::1]:4244",
        ] {
            assert!(endpoint(good, None).is_ok(), "{good}");
        }
        for bad in [
            "",
            "run/x.sock",
            "unix://x.sock",
            "host",
            "host:port",
            ":4244",
            "a/b:1",
        ] {
            assert!(endpoint(bad, None).is_err(), "{bad}");
        }
    }
}
