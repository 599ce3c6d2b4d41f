//! The lab itself: does the cluster that it builds behave as a kubenet cluster does, and
//! does it leave nothing behind?

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nodescope_tests::lab::{self, Lab, Netns, Pod, PodSpec, Protocol, Service, wait_for};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A lab, or none where it cannot be built.
fn lab(name: &str, promiscuous: bool) -> Result<Option<Lab>> {
    if !lab::is_root() {
        eprintln!("skipped: needs root");
        return Ok(None);
    }
    let builder = Lab::builder(name).promiscuous_bridge(promiscuous);
    Ok(Some(builder.start()?))
}

/// What the client of an HTTP request saw, and what the server told it.
fn get(from: &Netns, args: &[&str]) -> Result<Value> {
    let all = [&["http-get"], args].concat();
    let line = from.run_lab(all)?.success()?;
    Ok(serde_json::from_str(&line)?)
}

fn ping(from: &Netns, to: &str) -> bool {
    let out = from.run(["ping", "-q", "-c", "1", "-W", "1", to]);
    out.is_ok_and(|out| out.status.success())
}

/// The address of `"10.224.0.4:60996"`.
fn address(value: &Value) -> &str {
    let text = value.as_str().unwrap_or_default();
    text.split_once(':').map_or(text, |(address, _)| address)
}

#[test]
fn everything_reaches_everything_with_the_bridge_promiscuous_and_not() -> Result<()> {
    for promiscuous in [true, false] {
        let Some(lab) = lab("reach", promiscuous)? else {
            return Ok(());
        };
        let web = lab.pod("web")?;
        for pod in lab.pods() {
            assert!(ping(&web.netns(), &pod.ip().to_string()), "web → {pod:?}");
        }
        for to in [
            "10.224.1.2",
            "10.1.2.3",
            "168.63.129.16",
            "169.254.169.254",
            "10.224.0.5",
        ] {
            assert!(ping(&web.netns(), to), "web → {to}");
        }
        assert!(ping(&lab.vm(), "10.244.1.15"), "VM → api, by route table");
        assert!(ping(&lab.node(0), "10.244.1.15"), "node0 → api");
        assert!(ping(&lab.onprem(), "10.224.0.4"), "on-premises → node0");

        // Pods keep their address among each other, and lose it on the way out.
        for to in ["10.244.0.16", "10.244.1.15"] {
            let seen = get(&web.netns(), &[&format!("http://{to}:8080/")])?;
            assert_eq!(seen["peer"], seen["local"], "web → {to}");
        }
        for to in ["10.224.1.2", "10.1.2.3"] {
            let seen = get(&web.netns(), &[&format!("http://{to}:8080/")])?;
            assert_eq!(address(&seen["local"]), "10.244.0.15");
            assert_eq!(address(&seen["peer"]), "10.224.0.4", "web → {to}");
        }
    }
    Ok(())
}

#[test]
fn services_names_and_hairpin() -> Result<()> {
    let Some(lab) = lab("services", false)? else {
        return Ok(());
    };
    let web = lab.pod("web")?;
    // By name: DNS through its ClusterIP to a pod on the same node, then the service.
    for (service, backend) in [("web2", "10.244.0.16"), ("api", "10.244.1.15")] {
        let url = format!("http://{service}.default.svc.cluster.local/");
        let seen = get(&web.netns(), &[&url, "--dns", "10.0.0.10"])?;
        assert_eq!(seen["peer"], seen["local"], "no masquerade to {service}");
        let entries = lab.conntrack(0)?;
        let local = seen["local"].as_str().context("no address")?;
        let entry = entries
            .iter()
            .find(|e| format!("{}:{}", e.original.src, e.original.sport) == local)
            .context("no entry")?;
        assert_eq!(entry.translated().dst.to_string(), backend);
        assert_eq!(entry.translated().dport, 8080);
    }
    // To itself through its own service: kube-proxy masquerades it.
    let seen = get(&web.netns(), &["http://10.0.37.21/"])?;
    assert_eq!(address(&seen["peer"]), "10.244.0.1");

    let query = |name: &str| -> Result<Value> {
        let args = ["dns-query", name, "--server", "10.0.0.10"];
        let line = web.run_lab(args)?.success()?;
        Ok(serde_json::from_str(&line)?)
    };
    assert_eq!(query("db.corp.example.com")?["answers"][0], "10.1.2.3");
    assert_eq!(query("no-such.example.com")?["rcode"], "NXDOMAIN");
    Ok(())
}

#[test]
fn kubectl_sees_the_cluster_and_a_late_pod_from_outside_and_from_a_node() -> Result<()> {
    let Some(lab) = lab("kubectl", true)? else {
        return Ok(());
    };
    let config = |path: Option<PathBuf>| -> Result<String> {
        Ok(path.context("no API server")?.display().to_string())
    };
    let outside = config(lab.kubeconfig_path())?;
    let pods = "kubectl --request-timeout 5s get pods -A -o wide --kubeconfig".split(' ');
    let pods: Vec<&str> = pods.collect();
    let out = Command::new(pods[0])
        .args(&pods[1..])
        .arg(&outside)
        .output();
    let out = String::from_utf8(out?.stdout)?;
    for pod in lab.pods() {
        let line = out.lines().find(|line| line.contains(&pod.name()));
        let line = line.with_context(|| format!("no {} in {out}", pod.name()))?;
        assert!(line.contains(&pod.ip().to_string()), "{line}");
        assert!(
            line.contains(&lab.topology().nodes[pod.node()].name),
            "{line}"
        );
    }
    assert_eq!(out.matches("azure-ip-masq-agent-").count(), 2, "{out}");

    let before = lab.link_stats(&lab.node(1), "eth0")?;
    let inside = config(lab.node_kubeconfig_path())?;
    let argv = [pods.as_slice(), &[inside.as_str()]].concat();
    assert_eq!(lab.node(1).run(argv)?.success()?, out);
    let after = lab.link_stats(&lab.node(1), "eth0")?;
    assert_eq!(after, before, "the API server's traffic is on no interface");

    let at_once = ["http-get", "http://10.1.2.3:8080/"];
    let late = lab.add_pod(PodSpec::new("late", 1).entrypoint(&at_once))?;
    assert!(lab.finished("late")?.success()?.contains("10.224.0.5:"));
    let name = late.name();
    let get = ["kubectl", "--kubeconfig", &outside, "get", "pod", &name];
    let found = || Command::new(get[0]).args(&get[1..]).output();
    assert!(found()?.status.success());
    lab.remove_pod("late")?;
    assert!(!found()?.status.success());
    Ok(())
}

#[test]
fn a_new_replica_takes_its_share_and_a_removed_one_takes_none() -> Result<()> {
    let Some(lab) = lab("replicas", true)? else {
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
fn a_missing_route_cuts_the_nodes_apart() -> Result<()> {
    let Some(lab) = lab("route", true)? else {
        return Ok(());
    };
    let web = lab.pod("web")?.netns();
    assert!(ping(&web, "10.244.1.15"));
    lab.remove_route("10.244.1.0/24")?;
    assert!(!ping(&web, "10.244.1.15"));
    assert!(ping(&web, "10.244.0.16"), "the same node is not affected");
    lab.restore_route("10.244.1.0/24")?;
    assert!(ping(&web, "10.244.1.15"));
    Ok(())
}

#[test]
fn tcpdump_conntrack_and_interface_agree() -> Result<()> {
    let Some(lab) = lab("witness", true)? else {
        return Ok(());
    };
    let (web, node) = (lab.pod("web")?, lab.node(0));
    let interface = web.host_interface();
    let before = lab.link_stats(&node, interface)?;
    let capture = lab.tcpdump(&node, "")?;
    let seen = get(&web.netns(), &["http://10.1.2.3:8080/?size=300000"])?;
    let args = ["udp-send", "10.224.1.2:9000", "--count", "20"];
    web.run_lab(args)?.success()?;
    let (ingress, egress) = capture.stop(interface)?;
    let counted = lab.link_stats(&node, interface)?.since(&before);
    assert_eq!(ingress.packets(), counted.rx_packets);
    assert_eq!(ingress.bytes(), counted.rx_bytes);
    assert_eq!(egress.packets(), counted.tx_packets);
    assert_eq!(egress.bytes(), counted.tx_bytes);
    assert!(egress.bytes() > 300_000, "{}", egress.bytes());

    let entries = lab.conntrack(0)?;
    let entry = entries
        .iter()
        .find(|e| e.original.dst.to_string() == "10.1.2.3")
        .context("no entry")?;
    let translated = entry.translated();
    let as_server_saw = format!("{}:{}", translated.src, translated.sport);
    assert_eq!(seen["peer"], as_server_saw.as_str());
    let accepted = lab.served("onprem")?;
    assert_eq!(accepted.last().context("none")?["peer"], seen["peer"]);
    Ok(())
}

#[test]
fn two_pods_with_one_source_port_get_different_translations() -> Result<()> {
    let Some(lab) = lab("collide", true)? else {
        return Ok(());
    };
    let _server = lab.serve(&lab.vm(), &["serve-echo", "--tcp", "0.0.0.0:7000"])?;
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    let line = "tcp-send 10.224.1.2:7000 --source-port 40000 --count 1000 --interval 0.01";
    let args = lab::lab_command(line.split(' '))?;
    let _first = lab.spawn(&web.netns(), &args)?;
    let _second = lab.spawn(&web2.netns(), &args)?;
    let established = || -> Vec<lab::Tuple> {
        let entries = lab.conntrack(0).unwrap_or_default().into_iter();
        entries
            .filter(|e| e.original.sport == 40000 && e.state.as_deref() == Some("ESTABLISHED"))
            .map(|e| e.translated())
            .collect()
    };
    wait_for("both connections", TIMEOUT, || established().len() == 2)?;
    let both = established();
    assert_eq!(both[0].src, both[1].src);
    assert_ne!(both[0].sport, both[1].sport);
    Ok(())
}

#[test]
fn raw_frames_arrive_as_they_are() -> Result<()> {
    let Some(lab) = lab("raw", true)? else {
        return Ok(());
    };
    let (web, node) = (lab.pod("web")?, lab.node(0));
    let capture = lab.tcpdump(&node, "")?;
    // An Ethernet header for IPv4 to cbr0, and only four bytes of the IPv4 header.
    let frame = "0a580af400010a580af4000f080045000000";
    let args = ["raw-send", "eth0", frame, "--count", "3"];
    web.run_lab(args)?.success()?;
    let (ingress, _) = capture.stop(web.host_interface())?;
    let truncated = ingress.only(|frame| frame.payload == [0x45, 0, 0, 0]);
    assert_eq!((truncated.packets(), truncated.bytes()), (3, 54));
    Ok(())
}

#[test]
fn a_round_of_traffic_plays() -> Result<()> {
    let Some(lab) = lab("play", true)? else {
        return Ok(());
    };
    for played in lab.play()? {
        assert!(played.error.is_none(), "{played:?}");
    }
    Ok(())
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    let Some(lab) = lab("gone", true)? else {
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
    let Some(live) = lab("live", true)? else {
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
    assert!(ping(&live.pod("web")?.netns(), "10.244.1.15"));
    Ok(())
}
