//! Scenario 16: source ports in use, and `nodescope nat`, against conntrack.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use nodescope_tests::lab::Agent;
use serde_json::Value;

use crate::common::{agent, eventually, metric, models};
use crate::nat::{configured, lab_of, source_of};

/// Connections of each pod that are open at once.
const EACH: usize = 3;

fn lines(agent: &Agent, args: &[&str]) -> Result<Vec<Value>> {
    let out = agent.cli(&[&["nat", "-o", "json"], args].concat())?;
    let text = String::from_utf8(out.stdout)?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("nat said {line}")))
        .collect()
}

/// Two pods hold connections to one server: as many ports as conntrack has entries, by pod; all
/// given back at the end.
#[test]
fn scenario_16_snat_ports_in_use_by_destination_and_pod() -> Result<()> {
    for model in models(16) {
        let Some(lab) = lab_of(model, "s16")? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        configured(&agent, source_of(model))?;
        let pods = [lab.pod("web")?, lab.pod("web2")?];
        let onprem = lab.topology().onprem.ip();
        // Slow enough that all are open until they are ended here.
        let url = format!("http://{onprem}:8080/?size=8000000");
        let argv = [
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "--max-time",
            "120",
            "--limit-rate",
            "50k",
            &url,
        ];
        let mut running = Vec::new();
        for pod in &pods {
            for _ in 0..EACH {
                running.push(lab.spawn(&pod.netns(), argv)?);
            }
        }
        let destination = format!("{onprem}:8080/TCP");
        let labels = [("destination", destination.as_str())];
        eventually("all ports are in use", || {
            let in_use = metric(&agent, "nodescope_snat_ports_in_use", &labels)?;
            Ok(in_use == Some((2 * EACH) as f64))
        })?;
        let mut ports = Vec::new();
        eventually("one line for all of them", || {
            ports = lines(&agent, &["--ports", "--ip", &onprem.to_string()])?;
            Ok(ports.len() == 1 && ports[0]["ports"] == 2 * EACH)
        })?;
        let [one] = ports.as_slice() else {
            panic!("{ports:?}")
        };
        assert_eq!(
            (&one["ports"], &one["port"]),
            (&(2 * EACH).into(), &8080.into())
        );
        assert_eq!(one["from"], lab.topology().nodes[0].ip.to_string());
        let by_pod: BTreeSet<(String, u64)> = one["pods"]
            .as_array()
            .context("no pods")?
            .iter()
            .filter_map(|pod| {
                Some((
                    pod["pod"].as_str()?.to_owned(),
                    pod["connections"].as_u64()?,
                ))
            })
            .collect();
        let wanted = pods
            .iter()
            .map(|pod| (format!("default/{}", pod.name()), EACH as u64));
        assert_eq!(by_pod, wanted.collect());

        // The same connections one by one, with the ports that conntrack gave them.
        let mut shown = Vec::new();
        eventually("each connection", || {
            shown = lines(&agent, &["--ip", &onprem.to_string()])?;
            Ok(shown.len() == 2 * EACH)
        })?;
        let after: BTreeSet<String> = shown
            .iter()
            .map(|one| {
                format!(
                    "{}:{}",
                    one["translated"]["src"].as_str().unwrap_or("?"),
                    one["translated"]["sport"]
                )
            })
            .collect();
        let witness: BTreeSet<String> = lab
            .conntrack(0)?
            .iter()
            .filter(|entry| entry.original.dst == onprem && entry.original.dport == 8080)
            .map(|entry| format!("{}:{}", entry.translated().src, entry.translated().sport))
            .collect();
        assert_eq!(after, witness, "{model:?}");
        for one in &shown {
            assert_eq!(one["cause"], "masquerade", "{one}");
            assert_eq!(one["expected"], "translated", "{one}");
            assert_eq!(one["mismatch"], false, "{one}");
        }
        let of_web = lines(&agent, &["--pod", &format!("default/{}", pods[0].name())])?;
        assert_eq!(of_web.len(), EACH);
        assert!(lines(&agent, &["--mismatch"])?.is_empty());
        let table = agent.cli(&["nat"])?;
        let table = String::from_utf8(table.stdout)?;
        assert_eq!(table.matches("as configured").count(), 2 * EACH, "{table}");

        drop(running);
        eventually("all ports are given back", || {
            Ok(metric(&agent, "nodescope_snat_ports_in_use", &labels)?.is_none())
        })?;
    }
    Ok(())
}
