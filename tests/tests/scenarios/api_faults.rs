//! The API server away, or talking nonsense: the agent observes all the same, counts, recovers.

use anyhow::{Context, Result};
use nodescope_tests::apiserver::Fault;
use serde_json::json;

use crate::common::{eventually, get, lab, metric, one};

#[test]
fn scenario_34_an_api_that_fails_costs_names_and_nothing_else() -> Result<()> {
    let Some(lab) = lab("badapi")? else {
        return Ok(());
    };
    let Some(api) = lab.api() else {
        println!("skipped: a real API server cannot be told to fail");
        return Ok(());
    };
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    for fault in [Fault::Code(500), Fault::Garbage] {
        api.faults().set(fault);
        let mut agent = lab.start_agent(0, &["--flow-interval", "500ms"])?;
        eventually("the failures are counted", || {
            let errors = metric(&agent, "nodescope_kube_watch_errors_total", &[])?;
            Ok(errors.is_some_and(|errors| errors > 0.0))
        })?;
        // Without a name, and yet a pod: its packets come out of a pod's interface.
        let seen = get(&web.netns(), &format!("http://{}:8080/", web2.ip()))?;
        let local = seen["local"].as_str().context("no local")?.to_owned();
        let record = one(&agent, "a flow without names", |record| {
            record
                .tuple("/nat/original")
                .is_some_and(|(source, _)| source.to_string() == local)
        })?;
        assert_eq!(record.flow("/source/pod_name"), &json!(null));
        assert_eq!(
            record.path(),
            [web.host_interface(), "cbr0", web2.host_interface()]
        );

        api.faults().clear();
        crate::common::synced(&agent)?;
        let seen = get(&web.netns(), &format!("http://{}:8080/", web2.ip()))?;
        let local = seen["local"].as_str().context("no local")?.to_owned();
        let record = one(&agent, "a flow with names again", |record| {
            record
                .tuple("/nat/original")
                .is_some_and(|(source, _)| source.to_string() == local)
        })?;
        assert_eq!(record.flow("/source/pod_name"), &json!(web.name()));
        assert!(agent.is_running());
        agent.stop()?;
    }
    Ok(())
}
