//! Programs of the lab that follow a plan as long as the lab lives.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde::Serialize;
use serde_json::{Value, json};

use super::Lab;
use super::netns::Netns;
use super::process::{Proc, lab_command};

/// How long a program gets to do as planned: a round of probes that nobody answers is in it.
const APPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// Programs by role.
pub(super) type Daemons = HashMap<String, Daemon>;

/// A program that runs, and the plan that it follows.
pub(super) struct Daemon {
    process: Proc,
    path: PathBuf,
    generation: u64,
    plan: Value,
}

impl Daemon {
    /// Gives it another plan and waits until it follows.
    fn follow(&mut self, plan: Value) -> Result<()> {
        self.generation += 1;
        self.plan = plan;
        write(&self.path, self.generation, &self.plan)?;
        self.process.signal(Signal::HUP)?;
        self.wait()
    }

    fn wait(&mut self) -> Result<()> {
        let applied = json!({"applied": self.generation}).to_string();
        self.process.wait_output(&applied, APPLY_TIMEOUT)
    }

    /// The JSON lines that it wrote until now.
    pub(super) fn lines(&self) -> Vec<Value> {
        let text = self.process.stdout();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines().map(serde_json::from_str);
        lines.map_while(Result::ok).collect()
    }
}

impl Lab {
    /// Has `program` in `netns` follow `plan`: starts it when it does not run, does nothing
    /// when the plan is the same. Done when the plan is in force.
    pub(super) fn follow<T: Serialize>(
        &self,
        role: &str,
        program: &str,
        netns: &Netns,
        plan: &T,
    ) -> Result<()> {
        let plan = serde_json::to_value(plan)?;
        let mut daemons = self.lock_daemons();
        match daemons.get_mut(role) {
            Some(daemon) if daemon.plan == plan => Ok(()),
            Some(daemon) => daemon.follow(plan),
            None => {
                let path = self.run_dir().join(format!("{role}.json"));
                write(&path, 1, &plan)?;
                let file = path.display().to_string();
                let argv = lab_command([program, "--plan", &file])?;
                let mut daemon = Daemon {
                    process: self.spawn(netns, argv)?,
                    path,
                    generation: 1,
                    plan,
                };
                daemon.wait()?;
                daemons.insert(role.to_owned(), daemon);
                Ok(())
            }
        }
        .with_context(|| format!("the program {role} of lab {}", self.name))
    }

    /// What the program of `role` wrote until now; nothing when there is none.
    pub(super) fn daemon_lines(&self, role: &str) -> Vec<Value> {
        let daemons = self.lock_daemons();
        daemons.get(role).map(Daemon::lines).unwrap_or_default()
    }

    /// The programs; a test that panicked while it held the lock does not make them wrong.
    pub(super) fn lock_daemons(&self) -> MutexGuard<'_, Daemons> {
        self.daemons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renamed into place: the program never reads half of it.
fn write(path: &Path, generation: u64, plan: &Value) -> Result<()> {
    let new = path.with_extension("new");
    let text = json!({"generation": generation, "plan": plan}).to_string();
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path).with_context(|| format!("writing {}", path.display()))
}
