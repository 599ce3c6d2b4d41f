//! Servers of machines that are no nodes, and what servers took.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Lab;
use super::netns::Netns;
use super::pods::{self, Pod};
use super::process::Proc;

impl Lab {
    /// Connections and datagrams that the servers of `who` took until now, one JSON object
    /// each with `peer`: a pod's short name, `vm`, `onprem`, or `platform`.
    pub fn served(&self, who: &str) -> Result<Vec<Value>> {
        self.server_lines(who, "peer")
    }

    /// HTTP requests that they took: `request` (the path), `from`, `user_agent`.
    pub fn requests(&self, who: &str) -> Result<Vec<Value>> {
        self.server_lines(who, "request")
    }

    /// The lines of the servers of `who` that have `field`.
    fn server_lines(&self, who: &str, field: &str) -> Result<Vec<Value>> {
        let state = self.lock();
        let pod = state.pods.iter().find(|pod| pod.short() == who);
        let role = pod.map_or(who.to_owned(), Pod::role);
        let servers = state
            .processes
            .get(&role)
            .with_context(|| format!("nothing serves in '{who}' of lab {}", self.name))?;
        let output: String = servers.iter().map(Proc::stdout).collect();
        let lines = output.lines().map(serde_json::from_str::<Value>);
        let lines = lines.collect::<Result<Vec<_>, _>>()?;
        let taken = lines.into_iter().filter(|line| line.get(field).is_some());
        Ok(taken.collect())
    }

    /// Starts the servers of the machines that are no nodes, and of the cloud's platform:
    /// the wire server, its DNS, and instance metadata.
    pub(super) fn start_machine_servers(&self) -> Result<()> {
        let machine = "serve-http --listen 0.0.0.0:8080;serve-echo --udp 0.0.0.0:9000";
        let platform = "serve-http --listen 169.254.169.254:80;\
                        serve-http --listen 168.63.129.16:80;\
                        dns --listen 168.63.129.16:53 --zone {run}/zone.json";
        let (vm, onprem) = (&self.topology.vm.role, &self.topology.onprem.role);
        self.start_servers(self.vm(), vm, machine)?;
        self.start_servers(self.onprem(), onprem, machine)?;
        self.start_servers(self.fabric(), "platform", platform)
    }

    /// Starts programs of the lab binary, `;` between them.
    fn start_servers(&self, netns: Netns, role: &str, programs: &str) -> Result<()> {
        let words = |program: &str| program.split(' ').map(str::to_owned).collect();
        let programs: Vec<Vec<String>> = programs.split(';').map(words).collect();
        let logs = self.run_dir().join("logs");
        let mut processes = Vec::new();
        for (number, program) in programs.iter().enumerate() {
            let own = format!("{role}{number}");
            let program = std::slice::from_ref(program);
            processes.extend(pods::start_programs(&netns, &own, program, &logs)?);
        }
        pods::wait_listening(&mut processes)?;
        self.lock().processes.insert(role.to_owned(), processes);
        Ok(())
    }
}
