//! Scenario 17: a cluster IP, its service and its backend.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use nodescope_tests::lab::{Lab, Model};
use serde_json::json;

use crate::common::{agent, between, closed, get, models, of_model, way};

/// One flow: client pod → service → backend, with the destination's translation.
#[test]
fn scenario_17_cluster_ip_names_service_and_backend() -> Result<()> {
    for model in models(17) {
        let Some(lab) = of_model("s17", model)? else {
            return Ok(());
        };
        service_and_backend(model, &lab)?;
    }
    Ok(())
}

fn service_and_backend(model: Model, lab: &Lab) -> Result<()> {
    let agent = agent(lab, 0)?;
    let web = lab.pod("web")?;
    // A backend on the other node, and one beside the client on the same bridge.
    for (service, backend) in [("api", lab.pod("api")?), ("web2", lab.pod("web2")?)] {
        let address = lab.service("default", service)?.cluster_ip.to_string();
        let seen = get(&web.netns(), &format!("http://{address}/"))?;
        let record = closed(&agent, "the closed connection to the service", |record| {
            between(record, &web.ip().to_string(), &address, 80)
        })?;
        let local: SocketAddr = seen["local"].as_str().context("no local")?.parse()?;
        let target = SocketAddr::new(backend.ip().into(), 8080);
        assert_eq!(
            record.tuple("/nat/original"),
            Some((local, SocketAddr::new(address.parse()?, 80)))
        );
        assert_eq!(record.tuple("/nat/translated"), Some((local, target)));
        assert_eq!(record.ext("/nat/kind"), "dnat");
        assert_eq!(record.ext("/nat/cause"), "service");
        let entries = lab.conntrack(0)?;
        let entry = entries
            .iter()
            .find(|entry| SocketAddr::new(entry.original.src, entry.original.sport) == local)
            .context("conntrack has no entry for it")?;
        let translated = entry.translated();
        assert_eq!(SocketAddr::new(translated.dst, translated.dport), target);
        assert_eq!(
            record.flow("/destination_service"),
            &json!({"name": service, "namespace": "default"})
        );
        assert_eq!(record.flow("/destination/pod_name"), &json!(backend.name()));
        assert_eq!(record.flow("/source/pod_name"), &json!(web.name()));
        assert_eq!(
            record.flow("/IP/destination"),
            &json!(backend.ip().to_string())
        );
        assert_eq!(record.ext("/class"), "pod-to-pod");
        // Beside the client: handed from port to port, whatever way the neighbour was found.
        let last = if backend.node() == 0 {
            backend.host_interface()
        } else {
            "eth0"
        };
        if model == Model::Kubenet && backend.node() == 0 {
            assert_eq!(record.hop("cbr0")?.both_ways(), None);
        }
        let path = way(model, web.host_interface(), last);
        assert_eq!(record.path(), path);
        assert_eq!(
            record.remote_sees().map(|seen| seen.to_string()),
            seen["peer"].as_str().map(str::to_owned)
        );
    }
    Ok(())
}
