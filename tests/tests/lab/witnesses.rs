//! What tcpdump, conntrack, interfaces and kubectl say of the lab agrees.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use nodescope_tests::lab::PodSpec;

use crate::{get, start};

#[test]
fn kubectl_sees_the_cluster_and_a_late_pod_from_outside_and_from_a_node() -> Result<()> {
    let Some(lab) = start("kubectl", true)? else {
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
fn tcpdump_conntrack_and_interface_agree() -> Result<()> {
    let Some(lab) = start("witness", true)? else {
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
fn raw_frames_arrive_as_they_are() -> Result<()> {
    let Some(lab) = start("raw", true)? else {
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
