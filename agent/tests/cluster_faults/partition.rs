//! A network that loses every packet to the API server and from it, in a namespace of its own.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nodescope::cluster::Patience;
use nodescope_tests::apiserver::ApiServer;
use nodescope_tests::lab::{Netns, is_root};
use tokio::runtime::Runtime;

use crate::support::{TOKEN, Watching, node, pod, watched};

/// A namespace with a loopback and nothing else; gone on drop.
struct Island(Netns);

impl Island {
    fn new() -> Result<Self> {
        let name = format!("ns-labpart{}", std::process::id());
        let made = Self(Netns::named(name));
        ip(&["netns", "add", made.0.name()])?;
        made.0.ip(&["link set lo up".to_owned()])?;
        Ok(made)
    }

    /// Loses everything from now on, or nothing.
    fn cut(&self, cut: bool) -> Result<()> {
        let how = if cut { "-A" } else { "-D" };
        let rule = ["iptables", "-w", how, "INPUT", "-i", "lo", "-j", "DROP"];
        self.0.tool(&rule, "")?;
        Ok(())
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", self.0.name()]);
    }
}

fn ip(words: &[&str]) -> Result<()> {
    let out = std::process::Command::new("ip").args(words).output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "ip {words:?}: {said}");
    Ok(())
}

/// Nothing is said on the connection when it breaks: only the silence tells. Pods that came
/// meanwhile are known after it heals.
pub fn a_partition_is_noticed_by_silence_and_outlived() -> Result<()> {
    if !is_root() {
        println!("skipped: needs root for network namespaces");
        return Ok(());
    }
    let island = Island::new()?;
    let runtime = Runtime::new()?;
    let socket = island.0.enter(|| TcpListener::bind("127.0.0.1:0"))??;
    let server = {
        let _inside = runtime.enter();
        ApiServer::start_on(socket, TOKEN)?
    };
    server.load(vec![node(), pod(0), pod(1)])?;
    island.0.enter(|| outlived(&island, &server))??;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn outlived(island: &Island, server: &ApiServer) -> Result<()> {
    let patience = Patience {
        silence: Duration::from_secs(6),
        ..Patience::default()
    };
    let watching = Watching::with(server, &server.url(), patience).await?;
    watching.pods(2).await?;
    watched(server).await?;
    island.cut(true)?;
    server.store().apply(pod(2))?;
    // The watch of nodes has nothing to say, and is noticed as well.
    for kind in ["pods", "nodes"] {
        watching.errors(kind, 1).await?;
    }
    ensure!(watching.count() == 2, "what was known stays known");
    island.cut(false)?;
    watching.recovers("a partition", 3).await?;
    server.store().apply(pod(3))?;
    watching
        .pods(4)
        .await
        .map_err(|error| anyhow!("{error:#}"))
        .context("after the partition")
}
