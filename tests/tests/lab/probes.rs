//! The kubelet's probes, as the pods' servers see them.

use anyhow::{Context, Result};
use nodescope_tests::lab::{Model, PodSpec, Probe, ProbeKind, wait_for};
use serde_json::Value;

use crate::{TIMEOUT, address, build};

#[test]
fn servers_see_the_kubelet_probe_by_http_tcp_and_grpc() -> Result<()> {
    for model in Model::ALL {
        let pod = PodSpec::new("probed", 1)
            .serving()
            .program(&["serve-grpc-health", "--listen", "0.0.0.0:50051"])
            .probe(Probe::http(ProbeKind::Readiness, 8080, "/ready"))
            .probe(Probe::tcp(ProbeKind::Startup, 8080))
            .probe(Probe::grpc(ProbeKind::Liveness, 50051, "").every(2));
        let sick = PodSpec::new("sick", 1)
            .serving()
            .probe(Probe::http(ProbeKind::Liveness, 8080, "/status/500"))
            .probe(Probe::tcp(ProbeKind::Readiness, 81));
        let Some(lab) = build("probe", model, |lab| lab.pod(pod).pod(sick))? else {
            return Ok(());
        };
        let name =
            |short: &str| -> Result<String> { Ok(format!("default/{}", lab.pod(short)?.name())) };
        let (probed, sick) = (name("probed")?, name("sick")?);
        let found = |pod: &str, kind: &str, like: &dyn Fn(&Value) -> bool| {
            let all = lab.kubelet_probes(1);
            all.into_iter()
                .find(|p| p["pod"] == pod && p["kind"] == kind && like(p))
        };
        for (pod, kind, detail) in [
            (&probed, "readiness", "200"),
            (&probed, "startup", "\"connected\""),
            (&probed, "liveness", "\"SERVING\""),
            (&sick, "liveness", "500"),
        ] {
            let detail: Value = serde_json::from_str(detail)?;
            // One of a busy machine's probes may have run into its time limit.
            wait_for(&format!("{model:?}: {kind}: {detail}"), TIMEOUT, || {
                found(pod, kind, &|probe| probe["detail"] == detail)
                    .is_some_and(|probe| probe["healthy"] == (*pod == probed))
            })?;
        }
        wait_for("the refused one", TIMEOUT, || {
            found(&sick, "readiness", &|probe| probe["healthy"] == false).is_some()
        })?;

        // From the node: the bridge's address where there is a bridge.
        let from = match model {
            Model::Kubenet => "10.244.1.1".to_owned(),
            _ => lab.topology().nodes[1].ip.to_string(),
        };
        let requests = lab.requests("probed")?;
        let request = requests.iter().find(|r| r["request"] == "/ready");
        let request = request.context("no request")?;
        assert_eq!(request["user_agent"], "kube-probe/1.30");
        assert_eq!(address(&request["from"]), from, "{model:?}");

        let objects = lab.api().context("no API server")?.store();
        let object = objects.get("Pod", "default", &lab.pod("probed")?.name());
        let object = object.context("no object")?;
        let container = &object["spec"]["containers"][0];
        assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/ready");
        assert_eq!(container["livenessProbe"]["grpc"]["port"], 50051);
        assert_eq!(container["livenessProbe"]["periodSeconds"], 2);
        // Probes end with their pod.
        lab.remove_pod("probed")?;
        let count = || {
            lab.kubelet_probes(1)
                .iter()
                .filter(|p| p["pod"] == probed.as_str())
                .count()
        };
        let before = count();
        let others = lab.kubelet_probes(1).len();
        wait_for("others", TIMEOUT, || lab.kubelet_probes(1).len() > others)?;
        assert_eq!(count(), before);
    }
    Ok(())
}
