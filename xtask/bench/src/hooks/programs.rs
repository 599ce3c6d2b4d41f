//! The agent's programs beside those that they are compared with.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use aya::programs::SchedClassifier;
use nodescope::datapath::{Datapath, Events, Settings};

use super::floor::{Floor, run};
use super::frames::Context;

/// What a run goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Nothing.
    Empty,
    /// The least that a flow counter must do.
    Floor,
    /// One of the agent's, by name.
    Hook(&'static str),
}

/// Both objects.
pub struct Programs {
    floor: Floor,
    datapath: Datapath,
    events: Events,
    runtime: tokio::runtime::Runtime,
}

/// Connections of the agent's defaults: the table has the size that it has in operation.
const CONNECTIONS: u32 = 65_536;
/// A bridge.
const BRIDGE: u32 = 1000;

impl Programs {
    /// Loads them; nothing is attached to any interface.
    ///
    /// # Errors
    /// The kernel refuses, or an object lacks something.
    pub fn load(floor: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut datapath = Datapath::load(&Settings {
            max_connections: CONNECTIONS,
            nat: true,
            dns_questions: false,
            method: None,
            pinning: None,
        })?;
        // A node has some pods; their interfaces are no hooks of a test run.
        for port in 1..=30 {
            datapath.set_master(BRIDGE + port, Some(BRIDGE));
        }
        let inside = runtime.enter();
        let events = datapath.events()?;
        drop(inside);
        Ok(Self {
            floor: Floor::load(floor)?,
            datapath,
            events,
            runtime,
        })
    }

    /// Nanoseconds a run over one frame.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn run(
        &self,
        program: Program,
        frame: &[u8],
        context: Context,
        repeat: u32,
    ) -> anyhow::Result<f64> {
        let program = match program {
            Program::Empty => self.floor.program("empty")?,
            Program::Floor => self.floor.program("floor")?,
            Program::Hook(name) => hook(&self.datapath, name)?,
        };
        run(program, frame, context, repeat)
    }

    /// The same, with another flow in each run.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn run_varied(
        &mut self,
        program: Program,
        frame: &[u8],
        context: Context,
        repeat: u32,
    ) -> anyhow::Result<f64> {
        let floor = &mut self.floor;
        match program {
            Program::Empty => floor.run_own_varied("empty", frame, context, 0, repeat),
            Program::Floor => floor.run_own_varied("floor", frame, context, 0, repeat),
            Program::Hook(name) => {
                floor.run_varied(hook(&self.datapath, name)?, frame, context, 0, repeat)
            }
        }
    }

    /// Takes all flows out of a program's table, and reads what it told of them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clear(&mut self, program: Program) -> anyhow::Result<()> {
        match program {
            Program::Empty => Ok(()),
            Program::Floor => self.floor.clear(),
            Program::Hook(_) => {
                let mut keys = Vec::new();
                self.datapath.for_each(|key, _| keys.push(*key))?;
                for key in keys {
                    self.datapath.take(&key)?;
                }
                let events = &mut self.events;
                self.runtime.block_on(async {
                    // Until there is nothing more to read.
                    while let Ok(Ok(_)) =
                        tokio::time::timeout(Duration::from_millis(5), events.next(4096)).await
                    {
                    }
                });
                Ok(())
            }
        }
    }
}

fn hook<'a>(datapath: &'a Datapath, name: &str) -> anyhow::Result<&'a SchedClassifier> {
    datapath
        .program(name)
        .with_context(|| format!("the agent has no program {name}"))
}
