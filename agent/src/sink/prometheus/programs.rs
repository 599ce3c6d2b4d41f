//! What the kernel side's programs cost.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{CounterVec, IntCounterVec};

use super::Error;
use super::registrar::Registrar;
use crate::datapath::ProgramCost;

/// Runs and their time by program, while the kernel keeps statistics.
pub(super) struct Programs {
    seconds: CounterVec,
    runs: IntCounterVec,
    last: Mutex<HashMap<String, (u64, Duration)>>,
}

impl Programs {
    pub(super) fn new(registrar: &mut Registrar) -> Result<Self, Error> {
        let seconds = registrar.float_counters(
            "program_run_seconds_total",
            "Time in a program of the kernel side, while kernel.bpf_stats_enabled is set.",
            &["program"],
        )?;
        let runs = registrar.counters(
            "program_runs_total",
            "Runs of a program of the kernel side, while kernel.bpf_stats_enabled is set.",
            &["program"],
        )?;
        Ok(Self {
            seconds,
            runs,
            last: Mutex::default(),
        })
    }

    /// Takes over absolute values, which only grow while a program is loaded.
    pub(super) fn set(&self, costs: &[ProgramCost]) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        for cost in costs {
            let labels = [cost.program.as_str()];
            let before = last.entry(cost.program.clone()).or_default();
            let runs = cost.runs.saturating_sub(before.0);
            let time = cost.time.saturating_sub(before.1);
            self.runs.with_label_values(&labels).inc_by(runs);
            let seconds = self.seconds.with_label_values(&labels);
            seconds.inc_by(time.as_secs_f64());
            *before = (cost.runs, cost.time);
        }
    }
}
