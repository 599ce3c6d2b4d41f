//! Wrong configuration and wrong packets: a clear word or a counter, and the agent stays where
//! it can.

use std::process::Command;

use anyhow::{Context, Result};
use nodescope_tests::lab::binary;

use crate::common::{agent, between, closed, eventually, get, lab, metric};

/// Runs `nodescope` to its end: exit code, standard error.
fn nodescope(args: &[&str]) -> Result<(i32, String)> {
    let out = Command::new(binary("NODESCOPE_BIN", "nodescope")?)
        .args(args)
        .output()?;
    let code = out.status.code().context("killed by a signal")?;
    Ok((code, String::from_utf8_lossy(&out.stderr).into_owned()))
}

#[test]
fn wrong_flags_are_named_and_exit_2() -> Result<()> {
    for (args, word) in [
        (["agent", "--flow-interval", "soon"], "--flow-interval"),
        (["agent", "--nat-source", "guess"], "--nat-source"),
        (["agent", "--pod-cidr", "10.244.0.0/40"], "--pod-cidr"),
        (["agent", "--no-such-flag", "x"], "--no-such-flag"),
        (["observe", "--class", "nonsense"], "nonsense"),
    ] {
        let (code, said) = nodescope(&args)?;
        assert!(said.contains(word), "{args:?}: {said}");
        assert_eq!(code, 2, "{args:?}: {said}");
    }
    Ok(())
}

#[test]
fn an_unreadable_kubeconfig_is_one_line_and_exit_1() -> Result<()> {
    let Some(lab) = lab("badkube")? else {
        return Ok(());
    };
    let garbage = lab.run_dir().join("garbage.kubeconfig");
    std::fs::write(&garbage, "clusters: {{{")?;
    for path in ["/nonexistent/kubeconfig", &garbage.to_string_lossy()] {
        let mut agent = lab.launch_agent(0, &["--kubeconfig", path])?;
        let status = agent
            .process()
            .wait(crate::common::PATIENCE)?
            .context("the agent runs on with a kubeconfig that is none")?;
        assert_eq!(status.code(), Some(1));
        let log = agent.log();
        let last = log.lines().last().unwrap_or_default();
        assert!(
            last.contains(path) && last.contains("--kubeconfig"),
            "{log}"
        );
    }
    Ok(())
}

#[test]
fn a_glob_that_matches_nothing_is_said_and_the_agent_stays() -> Result<()> {
    let Some(lab) = lab("badglob")? else {
        return Ok(());
    };
    let mut agent = lab.start_agent(0, &["--interfaces", "nosuch*"])?;
    assert!(agent.is_running());
    eventually("it is said", || Ok(agent.log().contains("nosuch*")))
}

/// Frames that break the rules, raw from a pod: each is counted under its reason, and traffic
/// beside them is counted as ever.
#[test]
fn malformed_and_truncated_frames_are_counted() -> Result<()> {
    let Some(lab) = lab("badframes")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    let macs = "020000000001020000000002";
    let ip = |rest: &str| format!("{macs}0800{rest}");
    let frames = [
        // An IPv4 header that the frame cuts off after 8 bytes.
        ("truncated", ip("4500001400004000")),
        // A TCP header that the frame cuts off after 4 bytes.
        (
            "truncated",
            ip("4500001800004000400600000af4000f0af400101f901f90"),
        ),
        // Version 5.
        ("malformed", ip("5500001400004000400600000af4000f0af40010")),
        // A header of 16 bytes.
        ("malformed", ip("4400001400004000400600000af4000f0af40010")),
        // A total length of 200 in a frame of 34.
        ("malformed", ip("450000c800004000400600000af4000f0af40010")),
        // A TCP data offset of one word.
        (
            "malformed",
            ip("4500002800004000400600000af4000f0af400101f901f9000000000000000001002ffff00000000"),
        ),
        // A later fragment: no ports.
        (
            "fragment",
            ip("4500001c00000010401100000af4000f0af400100000000000000000"),
        ),
        // An MPLS label (RFC 3032). A VLAN tag the kernel takes off before any hook.
        ("tagged", format!("{macs}884700001140")),
        // An EtherType for local experiments.
        ("not_ip", format!("{macs}88b50000")),
    ];
    let count = |reason: &str| -> Result<u64> {
        let labels = [
            ("interface", web.host_interface()),
            ("direction", "ingress"),
            ("reason", reason),
        ];
        let found = metric(&agent, "nodescope_hook_unattributed_packets_total", &labels)?;
        Ok(found.unwrap_or(0.0) as u64)
    };
    let arp = count("not_ip")?;
    for (reason, frame) in &frames {
        let before = count(reason)?;
        web.run_lab(["raw-send", "eth0", frame, "--count", "5"])?
            .success()
            .with_context(|| format!("{reason}: {frame}"))?;
        let wanted = before + 5;
        eventually(&format!("five more are {reason}: {frame}"), || {
            let now = count(reason)?;
            // ARP is not IP either, and comes when it will.
            Ok(if *reason == "not_ip" {
                now >= arp + 5
            } else {
                now == wanted
            })
        })?;
    }
    get(&web.netns(), &format!("http://{}:8080/", web2.ip()))?;
    closed(&agent, "a connection beside them", |record| {
        between(record, &web.ip().to_string(), &web2.ip().to_string(), 8080)
    })?;
    Ok(())
}
