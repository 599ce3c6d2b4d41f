//! What runs out: source ports towards one destination, and room in connection tracking, taken up
//! by real datagrams and judged by `check --full-at`.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::checks::{check, check_with, says_with};
use crate::common::{agent, eventually, lab};

/// Source ports to send from: 3 percent of the 64,512 that a masqueraded address has.
const PORTS: u16 = 2000;

/// The first of two ports of the VM where nobody listens.
const NOWHERE: u16 = 9900;

/// Thousands of connections from one pod to two ports: the busiest destination and the table are
/// fuller than allowed, by the counts of the kernel; at the usual threshold both have room.
#[test]
fn scenario_16_check_finds_ports_and_conntrack_fuller_than_allowed() -> Result<()> {
    let Some(lab) = lab("c16")? else {
        return Ok(());
    };
    let node = lab.node(0);
    // Entries without an answer stay for as long as a test may take.
    node.sysctls(&[("net.netfilter.nf_conntrack_udp_timeout", "300")])?;
    let agent = agent(&lab, 0)?;
    let (web, vm) = (lab.pod("web")?, lab.topology().vm.ip());
    // No answer, not even a refusal.
    let (first, second) = (NOWHERE.to_string(), (NOWHERE + 1).to_string());
    let drop = format!("iptables -w -I INPUT -p udp --dport {first}:{second} -j DROP");
    lab.vm().tool(&drop.split(' ').collect::<Vec<_>>(), "")?;
    let last = (10_000 + PORTS - 1).to_string();
    let (near, far) = (format!("{vm}:{first}"), format!("{vm}:{second}"));
    let args = [
        "udp-spread",
        &near,
        &far,
        "--first",
        "10000",
        "--last",
        &last,
    ];
    let said: Value = serde_json::from_str(&web.netns().run_lab(args)?.success()?)?;
    let sent = said["sent"].as_u64().context("nothing sent")?;
    assert_eq!(sent, 2 * u64::from(PORTS));

    let ports = format!("{PORTS} ports of 64512");
    let evidence = says_with(
        &agent,
        "snat-port-headroom",
        "FAIL",
        &ports,
        &["--full-at", "3"],
    )?;
    for words in [format!("{vm}:"), web.name()] {
        assert!(evidence.contains(&words), "{words} not in {evidence}");
    }
    assert_eq!(check(&agent, "snat-port-headroom")?.0, "PASS");

    let number = |name: &str| -> Result<u64> {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
        let text = node.enter(|| std::fs::read_to_string(&path))??;
        Ok(text.trim().parse()?)
    };
    let (entries, limit) = (number("count")?, number("max")?);
    assert!(entries >= sent, "{entries} entries for {sent} datagrams");
    if entries * 100 < limit {
        println!("skipped: {limit} entries are too many to fill one percent of them here");
        return Ok(());
    }
    let full = ["--full-at", "1"];
    eventually("conntrack is fuller than allowed", || {
        let (verdict, evidence) = check_with(&agent, "conntrack-headroom", &full)?;
        Ok(verdict == "FAIL" && evidence.contains(&format!("of {limit} entries")))
    })?;
    assert_eq!(check(&agent, "conntrack-headroom")?.0, "PASS");
    Ok(())
}
