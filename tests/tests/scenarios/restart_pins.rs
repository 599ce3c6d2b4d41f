//! What an agent leaves on its node, who may take it over, and how it is removed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, MapData};
use nodescope_tests::lab::{Agent, Lab, binary};

use crate::common::{PATIENCE, between, closed, eventually, get, lab, metric, synced};
use crate::lifecycle::programs;

fn flags(folder: &Path) -> Result<[&str; 2]> {
    Ok(["--bpffs", folder.to_str().context("a path of letters")?])
}

fn start(lab: &Lab, folder: &Path, extra: &[&str]) -> Result<Agent> {
    let agent = lab.start_agent(0, &[&flags(folder)?, extra].concat())?;
    synced(&agent)?;
    Ok(agent)
}

/// Starts an agent that is expected to end by itself: exit code, what it logged.
fn refused(lab: &Lab, flags: &[&str]) -> Result<(Option<i32>, String)> {
    let mut agent = lab.launch_agent(0, flags)?;
    let status = agent.process().wait(PATIENCE)?;
    let status = status.context("the agent runs on")?;
    Ok((status.code(), agent.log()))
}

/// Files under a folder, however deep.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => files(&path),
            path => vec![path],
        })
        .collect()
}

/// What tc shows of an interface on node 0, of a kind of thing.
fn tc(lab: &Lab, what: &[&str]) -> Result<String> {
    let out = lab.node(0).tool(&[&["tc"], what].concat(), "")?;
    Ok(String::from_utf8(out.stdout)?)
}

fn filters(lab: &Lab, interface: &str) -> Result<usize> {
    let mut count = 0;
    for direction in ["ingress", "egress"] {
        let text = tc(lab, &["filter", "show", "dev", interface, direction])?;
        count += text.matches("direct-action").count();
    }
    Ok(count)
}

/// Runs `nodescope agent --detach` on node 0: exit code, standard output, standard error.
fn detach(lab: &Lab, folder: &Path) -> Result<(Option<i32>, String, String)> {
    let mut command = Command::new(binary("NODESCOPE_BIN", "nodescope")?);
    command.args(["agent", "--detach", "--node-name", "node"]);
    command.args(flags(folder)?);
    let out = lab.node(0).enter(|| command.output())??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((out.status.code(), text(&out.stdout), text(&out.stderr)))
}

/// A connection is seen from its first packet to its end.
fn sees_connections(lab: &Lab, agent: &Agent) -> Result<()> {
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    let (from, to) = (web.ip().to_string(), web2.ip().to_string());
    get(&web.netns(), &format!("http://{to}:8080/"))?;
    closed(agent, "a connection", |record| {
        between(record, &from, &to, 8080)
    })?;
    Ok(())
}

#[test]
fn scenario_34_what_agents_leave_is_one_agents_and_can_be_removed() -> Result<()> {
    let Some(lab) = lab("s34detach")? else {
        return Ok(());
    };
    let folder = lab.bpffs()?;
    let veth = lab.pod("web")?.host_interface().to_owned();
    let other = lab.pod("web2")?.host_interface().to_owned();

    // Two on one node: the second says so and leaves, and removes nothing.
    let mut agent = start(&lab, &folder, &[])?;
    let same = ["--socket", "/dev/null/none", "--listen-metrics", "off"];
    let (code, said) = refused(&lab, &[&flags(&folder)?[..], &same].concat())?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another agent runs on this node"), "{said}");
    let (code, _, said) = detach(&lab, &folder)?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another agent runs on this node"), "{said}");
    assert_eq!(programs(&lab, &veth)?, [1, 1]);

    // Stopped, it leaves its programs; told to detach on exit, the next one takes them along.
    agent.stop()?;
    assert_eq!(programs(&lab, &veth)?, [1, 1]);
    assert!(!files(&folder).is_empty());
    let mut agent = start(&lab, &folder, &["--detach-on-exit"])?;
    agent.stop()?;
    eventually("the programs are gone", || {
        Ok(programs(&lab, &veth)? == [0, 0])
    })?;
    assert!(!folder.exists(), "{:?}", files(&folder));

    // Killed ones, with links and then with filters, beside a filter of somebody else's.
    let mut agent = start(&lab, &folder, &[])?;
    agent.kill9()?;
    let mut agent = start(&lab, &folder, &["--attach", "clsact"])?;
    eventually("filters are in the place of links", || {
        Ok(programs(&lab, &veth)? == [0, 0] && filters(&lab, &veth)? == 2)
    })?;
    agent.kill9()?;
    let foreign = [
        "filter",
        "add",
        "dev",
        &other,
        "ingress",
        "prio",
        "7",
        "bpf",
        "bytecode",
        "1,6 0 0 0,",
    ];
    tc(&lab, &foreign)?;
    let (code, said, error) = detach(&lab, &folder)?;
    assert_eq!(code, Some(0), "{error}");
    assert!(said.starts_with("removed: "), "{said}");
    assert!(!folder.exists(), "{:?}", files(&folder));
    for interface in [&*veth, &other, "cbr0", "eth0"] {
        assert_eq!(programs(&lab, interface)?, [0, 0], "{interface}");
        assert_eq!(filters(&lab, interface)?, 0, "{interface}");
        let qdiscs = tc(&lab, &["qdisc", "show", "dev", interface])?;
        let kept = interface == other;
        assert_eq!(qdiscs.contains("clsact"), kept, "{interface}: {qdiscs}");
    }
    let left = tc(&lab, &["filter", "show", "dev", &other, "ingress"])?;
    assert!(left.contains("bytecode"), "{left}");
    // Nothing is left to remove, and that is no failure.
    assert_eq!(detach(&lab, &folder)?.0, Some(0));
    Ok(())
}

#[test]
fn scenario_34_what_cannot_be_taken_over_is_replaced() -> Result<()> {
    let Some(lab) = lab("s34layout")? else {
        return Ok(());
    };
    let folder = lab.bpffs()?;
    let mut agent = start(&lab, &folder, &[])?;
    agent.kill9()?;
    // A table as another version may have had it, with two records.
    let all = files(&folder);
    let table = all.iter().find(|path| path.ends_with("HOPS"));
    let table = table.context("no table is pinned")?;
    std::fs::remove_file(table)?;
    let mut old = HashMap::<MapData, u64, u64>::create(16, 0)?;
    old.insert(1, 1, 0)?;
    old.insert(2, 2, 0)?;
    old.pin(table)?;
    let mut agent = start(&lab, &folder, &[])?;
    let log = agent.log();
    ensure!(
        log.contains("another layout") && log.contains("records=2"),
        "{log}"
    );
    let lost = metric(&agent, "nodescope_given_up_total", &[("kind", "layout")])?;
    assert_eq!(lost, Some(2.0));
    sees_connections(&lab, &agent)?;
    agent.stop()?;

    // A folder that is on no BPF file system: said, and the agent works as it can.
    let plain = lab.run_dir().join("plain");
    let veth = lab.pod("web")?.host_interface().to_owned();
    assert_eq!(detach(&lab, &folder)?.0, Some(0));
    let mut agent = start(&lab, &plain, &[])?;
    let log = agent.log();
    let said = log.lines().find(|line| line.contains("nothing is pinned"));
    let said = said.with_context(|| log.clone())?;
    ensure!(said.contains("mount -t bpf") && said.contains("--bpffs none"));
    sees_connections(&lab, &agent)?;
    agent.stop()?;
    eventually("the programs are gone", || {
        Ok(programs(&lab, &veth)? == [0, 0])
    })
}
