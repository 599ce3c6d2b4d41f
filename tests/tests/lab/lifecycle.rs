//! Pods, agents and labs come and go, and nothing stays behind.

use std::process::{Child, Command, Stdio};

use anyhow::Result;
use nodescope_tests::lab::{self, Netns, Pod, PodSpec, Protocol, Service, wait_for};
use rustix::mount::{MountFlags, mount};

use crate::{TIMEOUT, address, get, ping, start};

#[test]
fn a_new_replica_takes_its_share_and_a_removed_one_takes_none() -> Result<()> {
    let Some(lab) = start("replicas", true)? else {
        return Ok(());
    };
    let node_port = Service::new("default", "front", [10, 0, 9, 9].into())
        .port("http", Protocol::Tcp, 80, 8080)
        .node_port(30080);
    lab.add_service(node_port)?;
    let refused = lab.vm().run_lab(["http-get", "http://10.224.0.5:30080/"]);
    assert!(!refused?.status.success(), "no endpoints yet");

    let front = |short: &str, node| PodSpec::new(short, node).app("front").serving();
    lab.add_pod(front("front1", 0))?;
    let second = lab.add_pod(front("front2", 1))?;
    let served = |pod: &Pod| lab.served(pod.short()).map_or(0, |all| all.len());
    let all = |pods: &[&Pod]| pods.iter().map(|pod| served(pod)).collect::<Vec<_>>();
    let first = lab.pod("front1")?;

    let seen = get(&lab.vm(), &["http://10.224.0.5:30080/", "--count", "1"])?;
    assert!(address(&seen["peer"]).starts_with("10."), "{seen}");
    let web = lab.pod("web")?;
    let argv = ["http-get", "http://10.0.9.9/", "--count", "40"];
    web.run_lab(argv)?.success()?;
    let shares = all(&[&first, &second]);
    assert_eq!(shares.iter().sum::<usize>(), 41);
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");

    lab.remove_pod("front2")?;
    web.run_lab(argv)?.success()?;
    assert_eq!(served(&first), shares[0] + 40);
    assert!(!second.netns().path().exists());
    assert!(!ping(&web.netns(), &second.ip().to_string()));
    Ok(())
}

#[test]
fn an_agent_runs_on_a_node_and_is_asked() -> Result<()> {
    let Some(lab) = start("agent", true)? else {
        return Ok(());
    };
    let mut agent = lab.start_agent(0, &[])?;
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let url = format!("http://{}:8080/", api.ip());
    get(&web.netns(), &[&url])?;
    let named = |text: &str| text.contains(&web.name()) && text.contains(&api.name());
    let observed = || agent.cli(&["observe", "--last", "100", "-o", "json"]);
    wait_for("the flow on the command line", TIMEOUT, || {
        observed().is_ok_and(|out| named(&String::from_utf8_lossy(&out.stdout)))
    })?;
    assert!(agent.metrics()?.contains("nodescope_build_info"));
    assert_eq!(agent.http("/no-such-page")?.0, 404);
    agent.stop()?;
    let flows = agent.flows()?;
    assert!(flows.iter().any(|flow| named(&flow.to_string())));

    let mut again = lab.start_agent(0, &[])?;
    again.kill9()?;
    assert!(!again.is_running());
    let Err(error) = lab.start_agent(0, &["--flow-interval", "soon"]) else {
        panic!("an agent that does not understand its flags is ready");
    };
    assert!(error.to_string().contains("soon"), "{error:#}");
    Ok(())
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    let Some(lab) = start("gone", true)? else {
        return Ok(());
    };
    let prefix = lab::namespace_prefix(lab.name());
    let run_dir = lab.run_dir().to_owned();
    assert!(lab::with_prefix(&prefix).len() >= 9);
    let mut sleeper = lab.spawn(&lab.node(0), ["sleep", "600"])?;
    assert!(lab::live().contains(&lab.name().to_owned()));
    drop(lab);
    assert!(lab::with_prefix(&prefix).is_empty());
    assert!(!run_dir.exists());
    wait_for("the process inside to end", TIMEOUT, || {
        !sleeper.is_running()
    })?;
    Ok(())
}

/// Kills by its id when the test fails before it does.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_a_killed_lab_left_is_removed_and_a_live_one_is_not() -> Result<()> {
    let Some(live) = start("live", true)? else {
        return Ok(());
    };
    let name = format!("killed{}", std::process::id());
    let binary = lab::lab_command(["run", "--no-agents", "--name", &name])?;
    let mut child = Killed(
        Command::new(&binary[0])
            .args(&binary[1..])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    let prefix = lab::namespace_prefix(&name);
    let inside = || -> Vec<u32> {
        let spaces = lab::with_prefix(&prefix);
        let processes = spaces.iter().map(|space| Netns::named(space.as_str()));
        processes.flat_map(|space| space.processes()).collect()
    };
    wait_for("servers of the other lab", TIMEOUT, || inside().len() >= 10)?;
    let other = live.run_dir().with_file_name(&name);
    let disk = other.join("disk");
    std::fs::create_dir(&disk)?;
    mount("tmpfs", &disk, "tmpfs", MountFlags::empty(), None)?;
    child.0.kill()?;
    child.0.wait()?;
    assert!(!lab::with_prefix(&prefix).is_empty());
    wait_for("its servers to die with it", TIMEOUT, || {
        inside().is_empty()
    })?;

    // Another test may have started a lab, and cleaned, in between.
    lab::clean_stale()?;
    let gone = || lab::with_prefix(&prefix).is_empty();
    wait_for("its namespaces to go", TIMEOUT, gone)?;
    assert!(!lab::live().contains(&name));
    let gone = || !other.exists();
    wait_for("its directory to go, with the disk in it", TIMEOUT, gone)?;
    assert!(ping(&live.pod("web")?.netns(), "10.244.1.15"));
    Ok(())
}
