//! The agent's API as the configuration asks for it: on the local socket, and on the network.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::node::NodeView;
use crate::sink::observer::{self, Certificates, Network, Observer};

/// The API on the network, its certificate read.
///
/// # Errors
/// When the certificate is none to serve with.
pub fn network(config: &Config, view: &NodeView) -> anyhow::Result<Option<Network>> {
    let Some(hubble) = &config.hubble else {
        return Ok(None);
    };
    let tls = hubble.tls.clone().map(Certificates::load).transpose()?;
    // By the first default route others reach this node.
    let outwards = view.default_routes.iter();
    let own = outwards
        .flat_map(|uplink| view.addresses_of(*uplink))
        .map(|net| net.addr())
        .find(|ip| ip.is_ipv4() || !hubble.address.is_ipv4());
    Ok(Some(Network {
        listen: hubble.address,
        own,
        tls: tls.map(Arc::new),
    }))
}

/// Serves until the stop; the tasks end with what this returns.
///
/// # Errors
/// When the socket or the address cannot be listened on.
pub async fn start(
    config: &Config,
    observer: &Observer,
    stop: &watch::Receiver<bool>,
) -> anyhow::Result<JoinSet<()>> {
    let until = |mut stop: watch::Receiver<bool>| async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let mut tasks = JoinSet::new();
    let listener = observer::bind(&config.socket).await?;
    let (socket, served, over) = (config.socket.clone(), observer.clone(), until(stop.clone()));
    tasks.spawn(async move {
        if let Err(error) = observer::serve_unix(listener, &socket, served, over).await {
            tracing::error!(%error, "the local API ended");
        }
    });
    if let Some(hubble) = &config.hubble {
        let listener = observer::bind_tcp(hubble.address).await?;
        let address = listener
            .local_addr()
            .context("asking where the API listens")?;
        tracing::info!(%address, tls = hubble.tls.is_some(), "serving the Hubble API");
        let (served, over) = (observer.clone(), until(stop.clone()));
        tasks.spawn(async move {
            if let Err(error) = observer::serve_tcp(listener, served, over).await {
                tracing::error!(%error, "the API on the network ended");
            }
        });
    }
    Ok(tasks)
}
