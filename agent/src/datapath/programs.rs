//! What the verifier made of the programs, and the one that the agent runs itself.

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use nodescope_ebpf::{HopKey, HopRecord, taking};

use super::Error;

/// Name of the program that takes a record out.
const TAKE: &str = "take";

/// A program as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Instructions that the verifier looked at, along all ways through the program; `None` on
    /// kernels that do not tell (before 5.16).
    pub instructions: Option<u32>,
}

/// All that are loaded, by name.
pub(super) fn loaded(ebpf: &aya::Ebpf) -> Vec<Program> {
    let mut programs: Vec<Program> = ebpf
        .programs()
        .filter_map(|(name, program)| {
            let instructions = program.info().ok()?.verified_instruction_count();
            Some(Program {
                name: name.to_owned(),
                instructions,
            })
        })
        .collect();
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    programs
}

/// Takes a record out by the program for that, which is loaded when it is first needed: on
/// kernels without look-up-and-delete for hash maps (before 5.14).
pub(super) fn take(ebpf: &mut aya::Ebpf, key: &HopKey) -> Result<Option<HopRecord>, Error> {
    let failed = |error: &dyn std::error::Error| Error::Load(super::chain(error));
    let program: &mut SchedClassifier = ebpf
        .program_mut(TAKE)
        .ok_or(Error::Incomplete(TAKE))?
        .try_into()
        .map_err(|error| failed(&error))?;
    if program.fd().is_err() {
        program.load().map_err(|error| failed(&error))?;
    }
    let mut frame = [0; taking::LENGTH];
    // SAFETY: both are plain bytes without padding, of which each field may have any value; the
    // frame has room for them where they are written and read.
    unsafe {
        frame
            .as_mut_ptr()
            .add(taking::KEY)
            .cast::<HopKey>()
            .write_unaligned(*key);
    }
    let mut answer = [0; taking::LENGTH];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&frame);
    options.data_out = Some(&mut answer);
    let result = program.test_run(options).map_err(|error| failed(&error))?;
    // SAFETY: as above.
    Ok((result.return_value == 1).then(|| unsafe {
        answer
            .as_ptr()
            .add(taking::RECORD)
            .cast::<HopRecord>()
            .read_unaligned()
    }))
}
