//! An agent that watches its own node's pods only.

use anyhow::Result;
use nodescope_tests::lab::{Lab, PodSpec, is_root};
use serde_json::{Value, json};

use crate::common::{between, closed, get, synced};

/// Its own pods have all that the API says of them, those of another node a name where a service
/// has them, and the rest are addresses.
#[test]
fn pods_of_other_nodes_are_known_by_their_services() -> Result<()> {
    if !is_root() {
        println!("skipped: needs root for network namespaces and eBPF");
        return Ok(());
    }
    let lab = Lab::builder("own")
        .pod(PodSpec::new("lone", 1).serving())
        .start()?;
    let agent = lab.start_agent(0, &["--flow-interval", "500ms", "--watch", "node"])?;
    synced(&agent)?;
    let (web, api, lone) = (lab.pod("web")?, lab.pod("api")?, lab.pod("lone")?);
    let from = web.ip().to_string();
    let reached = |to: &str| {
        get(&web.netns(), &format!("http://{to}:8080/"))?;
        closed(
            &agent,
            &format!("the closed connection to {to}"),
            |record| between(record, &from, to, 8080),
        )
    };

    let known = reached(&api.ip().to_string())?;
    assert_eq!(known.flow("/source/pod_name"), &json!(web.name()));
    assert_eq!(known.flow("/destination/pod_name"), &json!(api.name()));
    assert_eq!(known.flow("/destination/namespace"), "default");
    assert_eq!(
        known.ext("/destination_node"),
        &json!(lab.topology().nodes[1].name)
    );
    assert_eq!(known.ext("/scope"), "cross-node");

    let unknown = reached(&lone.ip().to_string())?;
    assert_eq!(unknown.flow("/source/pod_name"), &json!(web.name()));
    assert_eq!(unknown.flow("/destination/pod_name"), &Value::Null);
    assert_eq!(unknown.ext("/class"), "pod-to-pod");

    Ok(())
}
