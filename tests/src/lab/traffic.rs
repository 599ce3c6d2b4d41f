//! Traffic as a cluster has it, a bounded round at a time.

use std::thread;

use anyhow::{Result, anyhow};

use super::Lab;
use super::process::{Finished, lab_command};

/// One thing that happens in a round.
#[derive(Clone, Debug)]
pub struct Play {
    /// What it shows.
    pub what: &'static str,
    /// The pod, or the role of the machine, that does it.
    pub pod: &'static str,
    /// Arguments for the lab binary, or a system command when they start with one.
    pub argv: Vec<String>,
}

/// What happened of a [`Play`].
#[derive(Clone, Debug)]
pub struct Played {
    /// What was played.
    pub play: Play,
    /// What went wrong, if something did.
    pub error: Option<String>,
}

impl Lab {
    /// What a round consists of: same node, other node, masquerade, service, DNS, ping, metadata,
    /// and each load balancer from the VM.
    pub fn plays(&self) -> Result<Vec<Play>> {
        let (dns, vm, onprem) = (
            self.topology.dns,
            self.topology.vm.ip(),
            self.topology.onprem.ip(),
        );
        let ip = |pod: &str| self.pod(pod).map(|pod| pod.ip());
        let (web, web2, api) = (ip("web")?, ip("web2")?, ip("api")?);
        let lab = |what, pod, line: String| -> Result<Play> {
            let argv = lab_command(line.split(' '))?;
            Ok(Play { what, pod, argv })
        };
        let ping = |what, pod, to: std::net::Ipv4Addr| Play {
            what,
            pod,
            argv: format!("ping -q -c 3 -i 0.2 -W 1 {to}")
                .split(' ')
                .map(str::to_owned)
                .collect(),
        };
        let balanced = self.lock().services.clone();
        let balanced = balanced.iter().filter_map(|service| {
            let (vip, port) = (service.vip?, service.ports.first()?.port);
            let line = format!("http-get http://{vip}:{port}/balanced");
            Some(lab("VM to a load balancer", "vm", line))
        });
        let balanced = balanced.collect::<Result<Vec<_>>>()?;
        let mut plays = vec![
            lab(
                "pod to pod on the same node",
                "web",
                format!("http-get http://{web2}:8080/same-node"),
            )?,
            lab(
                "pod to pod on the other node",
                "web2",
                format!("http-get http://{api}:8080/cross-node?size=20000"),
            )?,
            lab(
                "pod to VM on the VNet, masqueraded",
                "web",
                format!("http-get http://{vm}:8080/vm"),
            )?,
            lab(
                "pod to on-premises, masqueraded",
                "api",
                format!("http-get http://{onprem}:8080/on-premises"),
            )?,
            lab(
                "pod to a service, by name",
                "web",
                format!("http-get http://api.default.svc.cluster.local/service --dns {dns}"),
            )?,
            lab(
                "datagrams to a service",
                "api",
                format!(
                    "udp-send {}:9000 --count 3",
                    self.service("default", "web")?.cluster_ip
                ),
            )?,
            lab(
                "a name that does not exist",
                "web2",
                format!("dns-query no-such.default.svc.cluster.local --server {dns}"),
            )?,
            ping("ping on the other node", "api", web),
            lab(
                "pod to instance metadata",
                "web2",
                "http-get http://169.254.169.254/metadata/instance".to_owned(),
            )?,
            ping("ping to on-premises", "web2", onprem),
        ];
        plays.extend(balanced);
        Ok(plays)
    }

    /// Plays one round, everything at once, and waits for its end.
    pub fn play(&self) -> Result<Vec<Played>> {
        let plays = self.plays()?;
        thread::scope(|scope| {
            let running: Vec<_> = plays
                .into_iter()
                .map(|play| {
                    scope.spawn(move || {
                        let pod = self.pod(play.pod).map(|pod| pod.netns());
                        let netns = pod.unwrap_or_else(|_| self.netns(play.pod));
                        let outcome = netns.run(&play.argv).and_then(Finished::success);
                        Played {
                            play,
                            error: outcome.err().map(|error| format!("{error:#}")),
                        }
                    })
                })
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow!("a player panicked")))
                .collect()
        })
    }
}
