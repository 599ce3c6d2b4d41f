//! The commands against live agents, as a user types them.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::{Agent, binary};
use serde_json::Value;

use crate::common::{Record, agent, between, closed, eventually, get, lab, one};

/// Standard output of a command that must succeed.
fn said(out: Output) -> Result<String> {
    ensure!(
        out.status.success(),
        "{}: {}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8(out.stdout)?)
}

/// Records that `observe` prints with these filters.
fn observed(agent: &Agent, filters: &[&str]) -> Result<Vec<Record>> {
    let args = [&["observe", "--last", "100", "-o", "json"], filters].concat();
    said(agent.cli(&args)?)?
        .lines()
        .map(|line| Ok(Record(serde_json::from_str::<Value>(line)?)))
        .collect()
}

#[test]
fn observe_filters_as_asked_and_the_tables_name_everything() -> Result<()> {
    let Some(lab) = lab("cli")? else {
        return Ok(());
    };
    let agents = [agent(&lab, 0)?, agent(&lab, 1)?];
    let (web, web2, api) = (lab.pod("web")?, lab.pod("web2")?, lab.pod("api")?);
    let (from, vm) = (web.ip().to_string(), "10.224.1.2");
    let service = lab.service("default", "api")?.cluster_ip.to_string();
    for url in [
        format!("http://{}:8080/", web2.ip()),
        format!("http://{vm}:8080/"),
        format!("http://{service}/"),
    ] {
        get(&web.netns(), &url)?;
    }
    web2.run_lab(["udp-send", &format!("{}:9000", api.ip())])?
        .success()?;
    // The node itself, which is in no namespace.
    let ping = ["ping", "-q", "-c", "1", "-W", "1", vm];
    lab.node(0).run(ping)?.success()?;
    one(&agents[0], "the node's echo", |record| {
        record.ext("/class") == "node-to-world"
    })?;
    for (to, port) in [
        (web2.ip().to_string(), 8080),
        (vm.to_owned(), 8080),
        (service.clone(), 80),
    ] {
        closed(&agents[0], "a connection", |record| {
            between(record, &from, &to, port)
        })?;
    }
    one(&agents[0], "the datagrams", |record| {
        record.flow("/l4/UDP").is_object()
    })?;

    let node = &agents[0];
    let web_name = web.name();
    // Filter, and what every record that passes must be.
    type Check<'a> = Box<dyn Fn(&Record) -> bool + 'a>;
    let checks: Vec<(Vec<&str>, Check<'_>)> = vec![
        (
            vec!["--pod", &web_name],
            Box::new(|r| {
                [r.flow("/source/pod_name"), r.flow("/destination/pod_name")]
                    .iter()
                    .any(|name| **name == *web_name)
            }),
        ),
        (
            vec!["-n", "default"],
            Box::new(|r| {
                [
                    r.flow("/source/namespace"),
                    r.flow("/destination/namespace"),
                ]
                .iter()
                .any(|name| **name == "default")
            }),
        ),
        (
            vec!["--ip", vm],
            // Packets that died on their way back are told of with the VM as their sender.
            Box::new(|r| {
                let dead = r.event() == "drop";
                r.flow("/IP/destination") == vm || dead && r.flow("/IP/source") == vm
            }),
        ),
        // The service's address and port, which the translation has replaced.
        (
            vec!["--ip", &service, "--port", "80"],
            Box::new(|r| r.flow("/destination_service/name") == "api"),
        ),
        (
            vec!["--protocol", "udp"],
            Box::new(|r| r.flow("/l4/UDP").is_object()),
        ),
        (
            vec!["--class", "pod-to-world"],
            Box::new(|r| r.ext("/class") == "pod-to-world"),
        ),
        (vec!["--snat"], Box::new(|r| r.ext("/nat/kind") == "snat")),
    ];
    for (filter, check) in &checks {
        eventually("nothing new between two looks", || {
            let all = observed(node, &[])?;
            let passed = observed(node, filter)?;
            if observed(node, &[])?.len() != all.len() {
                return Ok(false);
            }
            let expected = all.iter().filter(|record| check(record)).count();
            ensure!(!passed.is_empty(), "{filter:?}: nothing passes");
            ensure!(passed.iter().all(check), "{filter:?}: a wrong one passes");
            ensure!(passed.len() == expected, "{filter:?}: some are missing");
            ensure!(passed.len() < all.len(), "{filter:?} keeps everything");
            Ok(true)
        })?;
    }
    assert_eq!(observed(node, &["--pod", "no-such-pod"])?.len(), 0);

    // Two agents in one stream, by time.
    eventually("both agents have records", || {
        let out = Command::new(binary("NODESCOPE_BIN", "nodescope")?)
            .args(["observe", "--last", "100", "-o", "json"])
            .args(agents.iter().flat_map(|agent| {
                [
                    "--server".to_owned(),
                    format!("unix://{}", agent.socket().display()),
                ]
            }))
            .output()?;
        let both: Vec<Record> = said(out)?
            .lines()
            .map(|line| Ok(Record(serde_json::from_str(line)?)))
            .collect::<Result<_>>()?;
        let times: Vec<_> = both
            .iter()
            .map(|record| record.0["time"].as_str())
            .collect();
        ensure!(times.is_sorted(), "{times:?}");
        let mut nodes = lab.topology().nodes.iter();
        Ok(nodes.all(|node| both.iter().any(|r| r.0["node_name"] == *node.name)))
    })?;

    // Tables for people.
    let table = said(node.cli(&["observe", "--last", "100"])?)?;
    for word in [
        "TIME",
        "CLASS",
        &web_name,
        "snat 10.224.0.4",
        "svc default/api",
    ] {
        assert!(table.contains(word), "no {word:?} in\n{table}");
    }
    let table = said(node.cli(&["node"])?)?;
    for word in [
        "kubenet",
        "cbr0",
        "eth0",
        "tcx",
        web.host_interface(),
        &web_name,
        "synced",
    ] {
        assert!(table.contains(word), "no {word:?} in\n{table}");
    }
    Ok(())
}

#[test]
fn observe_follow_shows_a_flow_as_it_happens() -> Result<()> {
    let Some(lab) = lab("follow")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    let mut following = Command::new(binary("NODESCOPE_BIN", "nodescope")?)
        .args([
            "observe",
            "--follow",
            "-o",
            "json",
            "--to-port",
            "8080",
            "--server",
        ])
        .arg(format!("unix://{}", agent.socket().display()))
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let pid = following.id();
    let mut lines = std::io::BufReader::new(following.stdout.take().context("no output")?);
    let reader = std::thread::spawn(move || -> Result<Record> {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut lines, &mut line)?;
        Ok(Record(
            serde_json::from_str(&line).with_context(|| line.clone())?,
        ))
    });
    // The stream may begin after the first connection: more come until one is shown.
    let outcome = eventually("a live flow", || {
        get(&web.netns(), &format!("http://{}:8080/", web2.ip()))?;
        Ok(reader.is_finished())
    });
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("no pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    following.wait()?;
    outcome?;
    let record = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    assert_eq!(record.flow("/source/pod_name"), web.name().as_str());
    Ok(())
}

/// No API at all: names are addresses, and what a pod is shows by its interface.
#[test]
fn without_an_api_names_are_addresses() -> Result<()> {
    let Some(lab) = lab("noapi")? else {
        return Ok(());
    };
    let agent = lab.start_agent(0, &["--kubeconfig", "none", "--flow-interval", "500ms"])?;
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    let (from, to) = (web.ip().to_string(), web2.ip().to_string());
    get(&web.netns(), &format!("http://{to}:8080/"))?;
    let record = closed(&agent, "the closed connection", |record| {
        between(record, &from, &to, 8080)
    })?;
    assert_eq!(record.flow("/source/pod_name"), &Value::Null);
    assert_eq!(record.ext("/class"), "pod-to-pod");
    assert_eq!(
        record.path(),
        [web.host_interface(), "cbr0", web2.host_interface()]
    );
    eventually("the table has it", || {
        let table = said(agent.cli(&["observe", "--last", "10"])?)?;
        Ok(table.contains(&format!("{to}:8080")))
    })
}
