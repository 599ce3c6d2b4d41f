//! Certificates that are good no more: the API server's, and the agent's own.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use nodescope_tests::apiserver::Shown;
use nodescope_tests::lab::{Finished, HUBBLE_PORT, Lab, binary, recovers};
use nodescope_tests::pki::{Authority, Issued};
use serde_json::json;

use crate::common::{eventually, get, lab, synced};
use crate::faults_api::{Echoes, all_known, pods, told};
use crate::identity::Since;

const NAME: &str = "agent.nodescope.example";

fn write(folder: &Path, issued: &Issued) -> Result<()> {
    fs::write(folder.join("tls.crt"), &issued.cert)?;
    Ok(fs::write(folder.join("tls.key"), &issued.key)?)
}

/// Asks the agent for its newest flow over TLS, from the node.
fn observe(lab: &Lab, folder: &Path) -> Result<Finished> {
    let authority = folder.join("ca.crt").display().to_string();
    let server = format!("127.0.0.1:{HUBBLE_PORT}");
    let nodescope = binary("NODESCOPE_BIN", "nodescope")?;
    let command = [&*nodescope, "observe", "--last", "1", "--server", &server];
    let tls = ["--tls", "--tls-ca-cert-files", &authority];
    let name = ["--tls-server-name", NAME];
    lab.node(0).run([&command[..], &tls, &name].concat())
}

#[test]
fn scenario_34_certificates_that_expired_are_named_and_their_successors_taken() -> Result<()> {
    let Some(lab) = lab("faulttls")? else {
        return Ok(());
    };
    let folder = lab.run_dir().join("tls");
    fs::create_dir(&folder)?;
    let authority = Authority::new("nodescope test")?;
    fs::write(folder.join("ca.crt"), authority.pem())?;
    write(&folder, &authority.issue_expired(&[NAME])?)?;
    let file = |name: &str| folder.join(name).display().to_string();
    let (cert, key, listen) = (
        file("tls.crt"),
        file("tls.key"),
        format!("127.0.0.1:{HUBBLE_PORT}"),
    );
    let flags = ["--listen-hubble", &*listen, "--tls-cert", &cert];
    let flags = [&flags[..], &["--tls-key", &key, "--flow-interval", "500ms"]].concat();
    let mut agent = lab.start_agent(0, &flags)?;
    synced(&agent)?;
    let since = Since::still(&lab, &agent)?;
    let echoes = Echoes::begin(&lab, "api")?;

    // The agent's own: clients refuse it, and are served as soon as there is another.
    let refused = observe(&lab, &folder)?;
    let said = refused.stderr.to_lowercase();
    ensure!(
        !refused.status.success(),
        "it was taken: {}",
        refused.stdout
    );
    ensure!(
        said.contains("certificate") && said.contains("expired"),
        "{said}"
    );
    eventually("the agent says so", || {
        Ok(agent.log().contains("TLS handshake failed"))
    })?;
    write(&folder, &authority.issue(&[NAME])?)?;
    recovers("the agent's own certificate is expired", || {
        let shown = observe(&lab, &folder)?.success()?;
        Ok(!shown.is_empty())
    })?;
    ensure!(agent.log().contains("certificate read anew"));

    // The API server's.
    if let Some(api) = lab.api() {
        let before = all_known(&agent, api)?;
        api.show_certificate(Shown::Expired)?;
        let words = "the API server's certificate is not taken: certificate expired";
        eventually("the agent says so", || Ok(agent.log().contains(words)))?;
        api.store().apply(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "while-it-was-expired", "namespace": "default"},
            "spec": {"nodeName": "elsewhere", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running"}
        }))?;
        let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
        get(&web.netns(), &format!("http://{}:8080/", web2.ip()))?;
        assert_eq!(pods(&agent)?, before);
        api.show_certificate(Shown::Good)?;
        recovers("the API server's certificate is expired", || {
            Ok(pods(&agent)? == before + 1.0)
        })?;
    }
    let echoes = echoes.end()?;
    since.agree(&lab, &agent)?;
    told(&agent, echoes)?;
    assert!(agent.is_running());
    Ok(())
}
