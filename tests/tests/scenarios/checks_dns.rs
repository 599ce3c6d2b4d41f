//! `nodescope check dns-answers`: what DNS servers answer, and that they do, with the servers' and
//! clients' own words as witnesses.

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::Lab;
use serde_json::Value;

use crate::checks::{says, says_of};
use crate::common::{agent, counts, lab, synced};

/// Asks the cluster's DNS for addresses from the pod `web`: the code that the client got.
fn ask(lab: &Lab, name: &str) -> Result<String> {
    ask_for(lab, name, "A")
}

/// The same for records of another type.
fn ask_for(lab: &Lab, name: &str, kind: &str) -> Result<String> {
    let dns = lab.topology().dns.to_string();
    let web = lab.pod("web")?.netns();
    let said = web
        .run_lab(["dns-query", name, "--server", &dns, "--type", kind])?
        .success()?;
    let said: Value = serde_json::from_str(&said)?;
    Ok(said["rcode"].as_str().context("no code")?.to_owned())
}

/// Names that are there and names that are not are answers; a server that fails is none.
#[test]
fn scenario_32_check_reads_what_dns_servers_answer() -> Result<()> {
    let Some(lab) = lab("c32")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    let name = "api.default.svc.cluster.local";
    assert_eq!(ask(&lab, name)?, "NOERROR");
    says_of(&agent, "dns-answers", "PASS", "NOERROR")?;
    assert_eq!(ask(&lab, "no-such.default.svc.cluster.local")?, "NXDOMAIN");
    says_of(&agent, "dns-answers", "PASS", "NOERROR and NXDOMAIN")?;
    // A server whose source of names is broken says so, as CoreDNS does.
    let zone = lab.run_dir().join("zone.json");
    let whole = std::fs::read(&zone)?;
    std::fs::write(&zone, "{{{")?;
    assert_eq!(ask(&lab, name)?, "SERVFAIL");
    let evidence = says(&agent, "dns-answers", "FAIL")?;
    for words in ["1 answered with SERVFAIL", &lab.topology().dns.to_string()] {
        assert!(evidence.contains(words), "{words} not in {evidence}");
    }
    std::fs::write(&zone, whole)?;
    // Each question once, by the code that its client got, at whatever many hooks.
    for code in ["NOERROR", "NXDOMAIN", "SERVFAIL"] {
        // Nobody asked for the questions.
        let labels = [("rcode", code), ("qtype", "")];
        counts(&agent, "nodescope_dns_queries_total", &labels, 1.0)?;
    }
    counts(&agent, "nodescope_dns_duration_seconds_count", &[], 3.0)?;
    Ok(())
}

/// With `--capture-dns` the questions are read, in whole: the longest name there is goes before the
/// type that is counted.
#[test]
fn scenario_32_questions_by_the_type_that_was_asked_for() -> Result<()> {
    let Some(lab) = lab("c32t")? else {
        return Ok(());
    };
    let agent = lab.start_agent(0, &["--flow-interval", "500ms", "--capture-dns"])?;
    synced(&agent)?;
    let name = "api.default.svc.cluster.local";
    let label = "x".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", &label[..61]);
    for (name, kind, code) in [
        (name, "A", "NOERROR"),
        (name, "A", "NOERROR"),
        (name, "AAAA", "NOERROR"),
        (longest.as_str(), "SRV", "NXDOMAIN"),
        (longest.as_str(), "CERT", "NXDOMAIN"),
    ] {
        assert_eq!(ask_for(&lab, name, kind)?, code, "{kind}");
    }
    for (kind, code, count) in [
        ("A", "NOERROR", 2.0),
        ("AAAA", "NOERROR", 1.0),
        ("SRV", "NXDOMAIN", 1.0),
        ("other", "NXDOMAIN", 1.0),
    ] {
        let labels = [("qtype", kind), ("rcode", code)];
        counts(&agent, "nodescope_dns_queries_total", &labels, count)?;
    }
    // Nothing of a name is in what the agent says.
    let flows = agent.flows()?;
    assert!(!flows.iter().any(|flow| flow.to_string().contains(&label)));
    Ok(())
}

/// A server that is none: nobody answers.
#[test]
fn scenario_32_check_finds_a_dns_server_that_does_not_answer() -> Result<()> {
    let Some(lab) = lab("c32s")? else {
        return Ok(());
    };
    let soon = ["--flow-interval", "500ms", "--idle-timeout", "other=2s"];
    let agent = lab.start_agent(0, &soon)?;
    synced(&agent)?;
    let web = lab.pod("web")?.netns();
    let nobody = lab.topology().vm.ip().to_string();
    let args = [
        "dns-query",
        "api.default.svc.cluster.local",
        "--server",
        &nobody,
    ];
    let outcome = web.run_lab(args.into_iter().chain(["--timeout", "1"]))?;
    ensure!(outcome.success().is_err(), "somebody answered");
    let evidence = says(&agent, "dns-answers", "FAIL")?;
    for words in ["1 without an answer", &nobody] {
        assert!(evidence.contains(words), "{words} not in {evidence}");
    }
    let none = [("rcode", "none")];
    counts(&agent, "nodescope_dns_queries_total", &none, 1.0)?;
    Ok(())
}
