//! Nothing is lost silently: for each hook, records and what is in none add up to what the
//! interface itself counted.

use anyhow::Result;
use nodescope_tests::lab::Lab;

use crate::common::{agent, get, lab, metric, records};
pub use crate::identity::attributed;
use crate::identity::{Since, interfaces};
pub use nodescope_tests::records::sums;

/// Mixed traffic: bulk that offload joins, small packets, echoes, datagrams, names, ARP, frames
/// that are no packets at all.
fn traffic(lab: &Lab) -> Result<()> {
    for played in lab.play()? {
        assert_eq!(played.error, None, "{}", played.play.what);
    }
    let (web, web2, api) = (lab.pod("web")?, lab.pod("web2")?, lab.pod("api")?);
    for to in [
        web2.ip().to_string(),
        api.ip().to_string(),
        "10.1.2.3".to_owned(),
    ] {
        get(&web.netns(), &format!("http://{to}:8080/?size=2000000"))?;
    }
    // An EtherType for local experiments (IEEE 802), and an IPv4 packet that ends in its header.
    let frames = [
        "ffffffffffff02000000000188b50000",
        "ffffffffffff020000000001080045000014",
    ];
    web.run_lab(["raw-send", "eth0", frames[0], frames[1], "--count", "7"])?
        .success()?;
    Ok(())
}

#[test]
fn records_and_unattributed_are_what_the_interfaces_counted() -> Result<()> {
    let Some(lab) = lab("conserve")? else {
        return Ok(());
    };
    let mut agent = agent(&lab, 0)?;
    let interfaces = interfaces(&lab);
    // Until the hooks are on, interfaces count alone: the difference is taken between two points
    // at which nothing moves.
    let since = Since::still(&lab, &agent)?;
    traffic(&lab)?;

    let counted = since.agree(&lab, &agent)?;
    let silent = counted
        .iter()
        .find(|(_, [ingress, _, egress, _])| *ingress == 0 || *egress == 0);
    assert_eq!(silent, None);
    let offload = metric(&agent, "nodescope_hook_offload_segments_total", &[])?;
    assert!(
        offload.is_some_and(|segments| segments > 0.0),
        "the traffic had no offloaded packets: {offload:?}"
    );

    // The records alone: the totals of every connection's hops, with what is in no record, are
    // what the hooks saw. The last interval is written when the agent stops.
    // All of one moment: ARP comes when it will, and is in no record.
    let expected = attributed(&agent.metrics()?, &interfaces)?;
    agent.stop()?;
    assert_eq!(sums(&records(&agent)?)?, expected);
    Ok(())
}
