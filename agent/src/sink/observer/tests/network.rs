//! TCP: plain, with TLS, with clients' certificates; certificates that are replaced; bad files.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use nodescope_tests::pki::{Authority, Issued};
use tempfile::TempDir;
use tonic::transport::{self, Channel, ClientTlsConfig, Endpoint};

use super::served::{PATIENCE, Served, Tested, flow};
use crate::config::Tls as Files;
use crate::sink::observer::Certificates;
use crate::sink::observer::serve::{self, Error};
use crate::sink::proto::observer::observer_client::ObserverClient;
use crate::sink::proto::observer::{GetFlowsRequest, ServerStatusRequest};

const NAME: &str = "agents.nodescope.svc";

fn files(directory: &Path, client_ca: bool) -> Files {
    Files {
        cert: directory.join("tls.crt"),
        key: directory.join("tls.key"),
        client_ca: client_ca.then(|| directory.join("ca.crt")),
    }
}

fn write(directory: &Path, issued: &Issued) -> anyhow::Result<()> {
    fs::write(directory.join("tls.crt"), &issued.cert)?;
    fs::write(directory.join("tls.key"), &issued.key)?;
    Ok(())
}

/// Certificates for these names, who signed them, and where their files are.
pub(super) fn certificates(names: &[&str]) -> anyhow::Result<(Certificates, Authority, TempDir)> {
    let directory = tempfile::tempdir()?;
    let authority = Authority::new("servers")?;
    write(directory.path(), &authority.issue(names)?)?;
    let loaded = Certificates::load(files(directory.path(), false))?;
    Ok((loaded, authority, directory))
}

/// Asks a server with TLS for its status: how many flows it has seen.
async fn seen(
    served: &Served,
    authority: &Authority,
    client: Option<&Issued>,
) -> anyhow::Result<u64> {
    let address = served.address.context("not on TCP")?;
    let ca = transport::Certificate::from_pem(authority.pem());
    let mut tls = ClientTlsConfig::new().ca_certificate(ca).domain_name(NAME);
    if let Some(own) = client {
        tls = tls.identity(transport::Identity::from_pem(&own.cert, &own.key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?;
    let channel: Channel = tokio::time::timeout(PATIENCE, endpoint.connect()).await??;
    let mut client = ObserverClient::new(channel);
    let asked = client.server_status(ServerStatusRequest {});
    let status = tokio::time::timeout(PATIENCE, asked).await??;
    Ok(status.into_inner().seen_flows)
}

#[tokio::test]
async fn plain_tcp_serves_the_same() -> Tested {
    let served = Served::start_tcp(None).await?;
    served.observer.push((0..3).map(flow));
    assert_eq!(served.ask(GetFlowsRequest::default()).await?, [0, 1, 2]);
    let address = served.address.context("not on TCP")?;
    let Err(Error::Address { address: named, .. }) = serve::bind_tcp(address).await else {
        panic!("two listen on one address");
    };
    assert_eq!(named, address);
    served.stop().await
}

#[tokio::test]
async fn tls_is_for_who_trusts_the_authority_and_for_nobody_else() -> Tested {
    let (loaded, authority, _directory) = certificates(&[NAME])?;
    let served = Served::start_tcp(Some(Arc::new(loaded))).await?;
    served.observer.push((0..3).map(flow));
    assert_eq!(seen(&served, &authority, None).await?, 3);
    assert!(
        seen(&served, &Authority::new("others")?, None)
            .await
            .is_err()
    );
    // In plain text nothing is to be had.
    let plain = tokio::time::timeout(PATIENCE, served.ask(GetFlowsRequest::default())).await?;
    assert!(plain.is_err(), "{plain:?}");
    assert_eq!(seen(&served, &authority, None).await?, 3);
    served.stop().await
}

#[tokio::test]
async fn a_client_needs_a_certificate_of_the_authority_that_is_asked_for() -> Tested {
    let directory = tempfile::tempdir()?;
    let (servers, clients) = (Authority::new("servers")?, Authority::new("clients")?);
    write(directory.path(), &servers.issue(&[NAME])?)?;
    fs::write(directory.path().join("ca.crt"), clients.pem())?;
    let loaded = Certificates::load(files(directory.path(), true))?;
    let served = Served::start_tcp(Some(Arc::new(loaded))).await?;
    let (mine, theirs) = (clients.issue(&["relay"])?, servers.issue(&["relay"])?);
    assert_eq!(seen(&served, &servers, Some(&mine)).await?, 0);
    assert!(seen(&served, &servers, None).await.is_err());
    assert!(seen(&served, &servers, Some(&theirs)).await.is_err());
    // Another authority is asked for from the next connection on.
    fs::write(directory.path().join("ca.crt"), servers.pem())?;
    assert_eq!(seen(&served, &servers, Some(&theirs)).await?, 0);
    assert!(seen(&served, &servers, Some(&mine)).await.is_err());
    served.stop().await
}

#[tokio::test]
async fn a_certificate_that_is_replaced_is_served_and_half_of_one_is_not() -> Tested {
    let (loaded, first, directory) = certificates(&[NAME])?;
    let directory = directory.path();
    let served = Served::start_tcp(Some(Arc::new(loaded))).await?;
    assert_eq!(seen(&served, &first, None).await?, 0);
    let second = Authority::new("second")?;
    let issued = second.issue(&[NAME])?;
    // The certificate without its key yet: the pair before serves on.
    fs::write(directory.join("tls.crt"), &issued.cert)?;
    assert_eq!(seen(&served, &first, None).await?, 0);
    fs::write(directory.join("tls.key"), &issued.key)?;
    assert_eq!(seen(&served, &second, None).await?, 0);
    assert!(seen(&served, &first, None).await.is_err());
    // As the kubelet replaces a Secret's files: by a link that points elsewhere.
    let third = Authority::new("third")?;
    let elsewhere = tempfile::tempdir()?;
    write(elsewhere.path(), &third.issue(&[NAME])?)?;
    for file in ["tls.crt", "tls.key"] {
        let link = directory.join("link");
        std::os::unix::fs::symlink(elsewhere.path().join(file), &link)?;
        fs::rename(link, directory.join(file))?;
    }
    assert_eq!(seen(&served, &third, None).await?, 0);
    // Files that are gone take nothing away.
    fs::remove_file(directory.join("tls.crt"))?;
    assert_eq!(seen(&served, &third, None).await?, 0);
    served.stop().await
}

#[test]
fn a_bad_file_is_named_with_its_flag() -> Tested {
    let directory = tempfile::tempdir()?;
    let directory = directory.path();
    let authority = Authority::new("one")?;
    let (issued, other) = (authority.issue(&[NAME])?, authority.issue(&[NAME])?);
    let (good, key) = (issued.cert.as_str(), issued.key.as_str());
    for (cert, key, ca, flag, fault) in [
        (None, Some(key), Some(good), "--tls-cert", "No such file"),
        (
            Some(""),
            Some(key),
            Some(good),
            "--tls-cert",
            "no certificate in it",
        ),
        (
            Some(key),
            Some(key),
            Some(good),
            "--tls-cert",
            "no certificate in it",
        ),
        (Some(good), None, Some(good), "--tls-key", "No such file"),
        (
            Some(good),
            Some(good),
            Some(good),
            "--tls-key",
            "no private key in it",
        ),
        (
            Some(good),
            Some(&*other.key),
            Some(good),
            "--tls-key",
            "key that it is for",
        ),
        (
            Some(good),
            Some(key),
            None,
            "--tls-client-ca",
            "No such file",
        ),
        (
            Some(good),
            Some(key),
            Some("x"),
            "--tls-client-ca",
            "no certificate in it",
        ),
    ] {
        for (name, content) in [("tls.crt", cert), ("tls.key", key), ("ca.crt", ca)] {
            let path = directory.join(name);
            let _ = fs::remove_file(&path);
            content.map_or(Ok(()), |content| fs::write(path, content))?;
        }
        let Err(error) = Certificates::load(files(directory, true)) else {
            panic!("taken: {flag} {fault}");
        };
        let said = error.to_string();
        assert!(said.contains(flag) && said.contains(fault), "{said}");
        assert!(
            said.contains(&*directory.to_string_lossy()) && !said.contains('\n'),
            "{said}"
        );
    }
    Ok(())
}
