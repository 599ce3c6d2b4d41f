//! The object with the programs to compare with, and the one that makes floods.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};

use super::frames::Context;

const PROGRAMS: [&str; 3] = ["empty", "floor", "vary"];

/// The object, loaded.
pub struct Floor {
    object: aya::Ebpf,
    flows: HashMap<MapData, [u32; 11], [u64; 2]>,
    target: ProgramArray<MapData>,
    next: Array<MapData, u32>,
}

impl Floor {
    /// Loads it.
    ///
    /// # Errors
    /// The kernel refuses, or the object lacks something.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let mut object = aya::EbpfLoader::new()
            .load_file(path)
            .with_context(|| format!("loading {}", path.display()))?;
        for name in PROGRAMS {
            let program = object.program_mut(name);
            let program: &mut SchedClassifier = program
                .with_context(|| format!("{} has no program {name}", path.display()))?
                .try_into()?;
            program.load()?;
        }
        let mut take = |name: &str| {
            object
                .take_map(name)
                .with_context(|| format!("{} has no map {name}", path.display()))
        };
        Ok(Self {
            flows: take("FLOWS")?.try_into()?,
            target: take("TARGET")?.try_into()?,
            next: take("NEXT")?.try_into()?,
            object,
        })
    }

    /// One of its programs.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn program(&self, name: &str) -> anyhow::Result<&SchedClassifier> {
        self.object
            .program(name)
            .ok_or_else(|| anyhow!("no program {name}"))?
            .try_into()
            .map_err(anyhow::Error::from)
    }

    /// Nanoseconds a run of a program that sees another flow in each run, numbered from `first`
    /// on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn run_varied(
        &mut self,
        program: &SchedClassifier,
        frame: &[u8],
        context: Context,
        first: u32,
        repeat: u32,
    ) -> anyhow::Result<f64> {
        self.target.set(0, program.fd()?, 0)?;
        self.next.set(0, first, 0)?;
        run(self.program("vary")?, frame, context, repeat)
    }

    /// The same of one of its own programs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn run_own_varied(
        &mut self,
        name: &str,
        frame: &[u8],
        context: Context,
        first: u32,
        repeat: u32,
    ) -> anyhow::Result<f64> {
        let fd = self.program(name)?.fd()?.try_clone()?;
        self.target.set(0, &fd, 0)?;
        self.next.set(0, first, 0)?;
        run(self.program("vary")?, frame, context, repeat)
    }

    /// Takes all flows out of the table.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clear(&mut self) -> anyhow::Result<()> {
        let keys: Vec<_> = self.flows.keys().collect::<Result<_, _>>()?;
        for key in keys {
            self.flows.remove(&key)?;
        }
        Ok(())
    }
}

/// Nanoseconds a run, by the kernel's own measure, which leaves out what else the processor did
/// meanwhile.
///
/// # Errors
/// The kernel refuses.
pub fn run(
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
