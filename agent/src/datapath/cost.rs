//! What the programs cost, as the kernel measures it while `kernel.bpf_stats_enabled` is set.

use std::time::Duration;

use super::Datapath;

/// One program's runs since it was loaded, while the kernel kept statistics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramCost {
    /// Its name.
    pub program: String,
    /// Runs: packets, for a hook's program. (`bpf_prog_info.run_cnt`)
    pub runs: u64,
    /// Time of all of them. (`bpf_prog_info.run_time_ns`)
    pub time: Duration,
}

impl ProgramCost {
    /// Mean of a run; `None` without any.
    pub fn mean(&self) -> Option<Duration> {
        let nanos = self.time.as_nanos().checked_div(u128::from(self.runs))?;
        Some(Duration::from_nanos(
            u64::try_from(nanos).unwrap_or(u64::MAX),
        ))
    }
}

impl Datapath {
    /// The programs that ran while the kernel kept statistics, by name; none while it does not.
    pub fn costs(&self) -> Vec<ProgramCost> {
        let mut costs: Vec<_> = self
            .ebpf
            .programs()
            .filter_map(|(name, program)| {
                // One that is not loaded (a kernel that lacks something) costs nothing.
                let info = program.info().ok()?;
                Some(ProgramCost {
                    program: name.to_owned(),
                    runs: info.run_count(),
                    time: info.run_time(),
                })
            })
            .filter(|cost| cost.runs > 0)
            .collect();
        costs.sort_by(|a, b| a.program.cmp(&b.program));
        costs
    }
}
