//! The programs under test and those that they are compared with, loaded side by side.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use nodescope::datapath::{Datapath, Events, Settings};

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
    floor: aya::Ebpf,
    flows: HashMap<MapData, [u32; 11], [u64; 2]>,
    target: ProgramArray<MapData>,
    next: Array<MapData, u32>,
    datapath: Datapath,
    events: Events,
    runtime: tokio::runtime::Runtime,
}

const LOADED: [&str; 3] = ["empty", "floor", "vary"];
/// Connections of the agent's defaults: the table has the size that it has in operation.
const CONNECTIONS: u32 = 65_536;
/// Ports of a bridge.
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
        let mut object = aya::EbpfLoader::new()
            .load_file(floor)
            .with_context(|| format!("loading {}", floor.display()))?;
        for name in LOADED {
            classifier_mut(&mut object, name)?.load()?;
        }
        let mut take = |name: &str| {
            object
                .take_map(name)
                .with_context(|| format!("{} has no map {name}", floor.display()))
        };
        let (flows, target, next) = (take("FLOWS")?, take("TARGET")?, take("NEXT")?);
        let mut datapath = Datapath::load(&Settings {
            max_connections: CONNECTIONS,
            nat: true,
            method: None,
        })?;
        // A node has some pods; their interfaces are no hooks of a test run.
        for port in 1..=30 {
            datapath.set_master(BRIDGE + port, Some(BRIDGE));
        }
        let inside = runtime.enter();
        let events = datapath.events()?;
        drop(inside);
        Ok(Self {
            flows: flows.try_into()?,
            target: target.try_into()?,
            next: next.try_into()?,
            floor: object,
            datapath,
            events,
            runtime,
        })
    }

    /// Nanoseconds a run, by the kernel's own measure, which leaves out what else the processor
    /// did meanwhile.
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
        let program = self.program(program)?;
        run(program, frame, context, repeat)
    }

    /// The same, with another flow in each run; those that began with `first` are counted on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn run_varied(
        &mut self,
        program: Program,
        frame: &[u8],
        context: Context,
        first: u32,
        repeat: u32,
    ) -> anyhow::Result<f64> {
        let fd = self.program(program)?.fd()?.try_clone()?;
        self.target.set(0, &fd, 0)?;
        self.next.set(0, first, 0)?;
        run(classifier(&self.floor, "vary")?, frame, context, repeat)
    }

    /// Takes all flows out of a program's table, and reads what it told of them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clear(&mut self, program: Program) -> anyhow::Result<()> {
        match program {
            Program::Empty => {}
            Program::Floor => {
                let keys: Vec<_> = self.flows.keys().collect::<Result<_, _>>()?;
                for key in keys {
                    self.flows.remove(&key)?;
                }
            }
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
            }
        }
        Ok(())
    }

    fn program(&self, program: Program) -> anyhow::Result<&SchedClassifier> {
        match program {
            Program::Empty => classifier(&self.floor, "empty"),
            Program::Floor => classifier(&self.floor, "floor"),
            Program::Hook(name) => self
                .datapath
                .program(name)
                .with_context(|| format!("the agent has no program {name}")),
        }
    }
}

fn run(
    program: &SchedClassifier,
    frame: &[u8],
    context: Context,
    repeat: u32,
) -> anyhow::Result<f64> {
    let context = context.bytes();
    let result = program.test_run(TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        repeat,
        ..TestRunOptions::default()
    })?;
    Ok(result.duration.as_nanos() as f64)
}

fn classifier<'a>(object: &'a aya::Ebpf, name: &str) -> anyhow::Result<&'a SchedClassifier> {
    let program = object.program(name);
    program
        .ok_or_else(|| anyhow!("no program {name}"))?
        .try_into()
        .map_err(anyhow::Error::from)
}

fn classifier_mut<'a>(
    object: &'a mut aya::Ebpf,
    name: &str,
) -> anyhow::Result<&'a mut SchedClassifier> {
    let program = object.program_mut(name);
    program
        .ok_or_else(|| anyhow!("no program {name}"))?
        .try_into()
        .map_err(anyhow::Error::from)
}
