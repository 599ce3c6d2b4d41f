//! Where agents are, and how to reach them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use tonic::transport::{Channel, Endpoint};

use super::failure::tell;

/// Where the agent of this node listens unless told otherwise.
pub const LOCAL_SOCKET: &str = "/run/nodescope/agent.sock";

/// An agent that does not answer the connection within this is reported.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which agents to ask.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Agents")]
pub struct Servers {
    /// Agent to ask: unix:///PATH or HOST:PORT; may be given several times
    #[arg(
        long = "server",
        env = "NODESCOPE_SERVER",
        value_delimiter = ',',
        value_name = "ADDR"
    )]
    pub addresses: Vec<String>,
}

impl Servers {
    /// The agents to ask, the local one if none is named.
    ///
    /// # Errors
    /// When none is named and there is none on this machine.
    pub fn resolve(&self) -> anyhow::Result<Vec<String>> {
        if !self.addresses.is_empty() {
            return Ok(self.addresses.clone());
        }
        if !Path::new(LOCAL_SOCKET).exists() {
            bail!(
                "no agent on this machine ({LOCAL_SOCKET} is not there): start `nodescope agent`, \
                 or point at one with --server unix:///PATH or --server HOST:PORT"
            );
        }
        Ok(vec![format!("unix://{LOCAL_SOCKET}")])
    }
}

/// Connects to an agent.
///
/// # Errors
/// When the address is none, or nothing answers there.
pub async fn connect(address: &str) -> anyhow::Result<Channel> {
    let endpoint = endpoint(address)?.connect_timeout(CONNECT_TIMEOUT);
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

fn endpoint(address: &str) -> anyhow::Result<Endpoint> {
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
        format!("http://{host_port}")
    };
    Endpoint::from_shared(uri).with_context(|| {
        format!("{address}: not an agent's address: write unix:///PATH or HOST:PORT")
    })
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
    /// Addresses of agents that failed; why has been told.
    pub silent: Vec<String>,
}

/// Asks all agents at once. One that fails is told about.
///
/// # Errors
/// When all fail.
pub async fn ask_all<T>(
    addresses: &[String],
    ask: impl AsyncFn(&str) -> anyhow::Result<T>,
) -> anyhow::Result<Answers<T>> {
    let answers = futures::future::join_all(addresses.iter().map(|to| ask(to))).await;
    let (mut given, mut silent, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for (address, answer) in addresses.iter().zip(answers) {
        match answer {
            Ok(answer) => given.push(answer),
            Err(error) => {
                silent.push(address.clone());
                failures.push(error);
            }
        }
    }
    let last = given.is_empty().then(|| failures.pop()).flatten();
    failures.iter().for_each(tell);
    last.map_or(Ok(Answers { given, silent }), Err)
}

/// What an agent answered instead of what was asked for.
pub fn refusal(address: &str, status: &tonic::Status) -> anyhow::Error {
    match status.code() {
        tonic::Code::InvalidArgument => anyhow::anyhow!("{}", status.message()),
        tonic::Code::Unimplemented => anyhow::anyhow!(
            "{address}: does not serve this ({}): is it a nodescope agent of this version?",
            status.message()
        ),
        code => anyhow::anyhow!(
            "{address}: the agent stopped answering ({code}: {})",
            status.message()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_agents() {
        for good in [
            "unix:///run/x.sock",
            "unix:/run/x.sock",
            "localhost:4244",
            "[::1]:4244",
        ] {
            assert!(endpoint(good).is_ok(), "{good}");
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
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
