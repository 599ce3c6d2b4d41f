//! The image, run as the DaemonSet runs it.

use anyhow::Result;
use nodescope_tests::lab::Lab;

use crate::{deployed, eventually, observed};

#[test]
fn the_image_is_one_program_that_needs_nothing() -> Result<()> {
    let Some((_, image)) = deployed()? else {
        return Ok(());
    };
    assert_eq!(
        image.run(&["--version"])?.trim(),
        concat!("nodescope ", env!("CARGO_PKG_VERSION"))
    );
    Ok(())
}

/// On a node, with the security context of the DaemonSet: flows have names and translations, and
/// a second one after it goes on with the counts.
#[test]
fn the_image_observes_a_node() -> Result<()> {
    let Some((deployed, image)) = deployed()? else {
        return Ok(());
    };
    let lab = Lab::builder("dimage").start()?;
    // It is asked for at the end of each agent.
    for daemonset in deployed.of_kind("DaemonSet") {
        lab.control_plane()?.apply(daemonset.clone())?;
    }
    let pod = deployed.pod()?;
    let mut first = pod.start(&lab, 0, &image)?;
    let (web, vm) = (lab.pod("web")?, lab.topology().vm.ip());
    let mut ping = lab.spawn(
        &web.netns(),
        ["ping", "-q", "-c", "200", "-i", "0.02", &vm.to_string()],
    )?;
    let echoes = |agent: &nodescope_tests::lab::Agent| -> Result<Option<u64>> {
        let all = observed(agent)?;
        let last = all.iter().rfind(|record| {
            record["flow"]["l4"]["ICMPv4"].is_object()
                && record["flow"]["source"]["pod_name"] == web.name()
                && record["flow"]["IP"]["source_xlated"] == lab.topology().nodes[0].ip.to_string()
        });
        let value = last.map(|record| {
            record["flow"]["extensions"]["value"]["forward"]["packets_total"].as_u64()
        });
        Ok(value.flatten())
    };
    eventually("masqueraded echoes of the pod", || {
        Ok(echoes(&first.agent)?.is_some())
    })?;
    first.agent.stop()?;
    drop(first);
    let second = pod.start(&lab, 0, &image)?;
    let status = ping.wait(std::time::Duration::from_secs(60))?;
    assert!(
        status.is_some_and(|status| status.success()),
        "{}",
        ping.stderr()
    );
    eventually("all echoes under the agent after it", || {
        Ok(echoes(&second.agent)? == Some(200))
    })
}
