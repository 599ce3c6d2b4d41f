//! Tokens that are rotated, and certificates that are no good.

use anyhow::{Result, ensure};
use nodescope::cluster::Patience;
use nodescope_tests::apiserver::Shown;

use crate::support::{TOKEN, Watching, pod, server, watched};

#[tokio::main(flavor = "current_thread")]
pub async fn a_token_that_is_rotated_is_in_force_at_once() -> Result<()> {
    let server = server()?;
    let token = tempfile::NamedTempFile::new()?;
    std::fs::write(token.path(), format!("{TOKEN}\n"))?;
    let named = format!("tokenFile: {}", token.path().display());
    let kubeconfig = server.kubeconfig(&server.url());
    let kubeconfig = kubeconfig.replace(&format!("token: {TOKEN}"), &named);
    ensure!(kubeconfig.contains(&named));
    let watching = Watching::reading(&kubeconfig, Patience::default()).await?;
    watching.pods(2).await?;
    watched(&server).await?;

    // The usual way: the file first. Nobody notices.
    std::fs::write(token.path(), "second")?;
    server.auth().set_token("second");
    server.faults().close_watches();
    server.store().apply(pod(2))?;
    watching.pods(3).await?;
    ensure!(watching.failures("pods") == 0, "the old token was shown");
    ensure!(server.counters().now().unauthorized() == 0);

    // The other way round: refused, until the file has it.
    server.auth().set_token("third");
    server.faults().drop_watches();
    watching.errors("nodes", 2).await?;
    std::fs::write(token.path(), "third")?;
    server.store().apply(pod(3))?;
    watching.recovers("a token that is refused", 4).await
}

/// A kubeconfig that is written anew: a token within it is as good as one in a file.
#[tokio::main(flavor = "current_thread")]
pub async fn a_kubeconfig_that_is_replaced_is_read_anew() -> Result<()> {
    let server = server()?;
    let watching = Watching::start(&server, &server.url()).await?;
    watching.pods(2).await?;
    watched(&server).await?;
    server.auth().set_token("second");
    server.faults().drop_watches();
    watching.errors("nodes", 2).await?;
    // Half of it, and then all.
    let kubeconfig = server.kubeconfig(&server.url());
    watching.replace(&kubeconfig[..kubeconfig.len() / 2])?;
    let failures = watching.failures("nodes");
    watching.errors("nodes", failures + 1).await?;
    ensure!(watching.count() == 2, "what was known stays known");
    watching.replace(&kubeconfig)?;
    server.store().apply(pod(2))?;
    watching.pods(3).await
}

pub fn an_expired_certificate_is_named_and_its_successor_taken() -> Result<()> {
    shown(Shown::Expired, "expired")
}

/// Or the node's clock is slow.
pub fn a_certificate_of_the_future_is_named_and_its_successor_taken() -> Result<()> {
    shown(Shown::Early, "not valid yet")
}

pub fn a_certificate_of_somebody_else_is_named_and_its_successor_taken() -> Result<()> {
    shown(Shown::Foreign, "UnknownIssuer")
}

#[tokio::main(flavor = "current_thread")]
async fn shown(what: Shown, word: &str) -> Result<()> {
    let server = server()?;
    let watching = Watching::start(&server, &server.url()).await?;
    watching.pods(2).await?;
    watched(&server).await?;
    server.show_certificate(what)?;
    watching.errors("nodes", 2).await?;
    ensure!(watching.count() == 2, "what was known stays known");
    let log = watching
        .said("API server's certificate is not taken")
        .await?;
    ensure!(log.contains(word), "{log}");
    server.store().apply(pod(2))?;
    server.show_certificate(Shown::Good)?;
    watching.recovers("a certificate that is no good", 3).await
}
