//! What the agent's process costs, by the names that programs of all kinds give these metrics
//! (Prometheus documentation, "Writing client libraries", process metrics).

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::SystemTime;

use prometheus::{Counter, Gauge};
use rustix::time::{ClockId, clock_gettime};

use super::Error;
use super::registrar::Registrar;

/// Processor time, memory and start of this process.
pub(super) struct Process {
    cpu: Counter,
    memory: Gauge,
    /// Processor time that was counted.
    last: Mutex<f64>,
}

impl Process {
    pub(super) fn new(registrar: &mut Registrar) -> Result<Self, Error> {
        let (name, help) = (
            "process_cpu_seconds_total",
            "Processor time of the agent, in user and system mode.",
        );
        let cpu = registrar.common("counter", name, help, Counter::new(name, help)?)?;
        let (name, help) = (
            "process_resident_memory_bytes",
            "Memory of the agent that is resident.",
        );
        let memory = registrar.common("gauge", name, help, Gauge::new(name, help)?)?;
        let (name, help) = (
            "process_start_time_seconds",
            "When the agent started, as seconds since 1970.",
        );
        let started = registrar.common("gauge", name, help, Gauge::new(name, help)?)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        started.set(now.unwrap_or_default().as_secs_f64());
        Ok(Self {
            cpu,
            memory,
            last: Mutex::default(),
        })
    }

    /// Looks at the process now.
    pub(super) fn look(&self) {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let now = time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if now > *last {
            self.cpu.inc_by(now - *last);
            *last = now;
        }
        if let Some(bytes) = resident() {
            self.memory.set(bytes);
        }
    }
}

/// `VmRSS` of /proc/self/status, which is in KiB (proc_pid_status(5)), in bytes.
fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024.0)
}
