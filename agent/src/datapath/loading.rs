//! What goes into the load of the kernel side, and what comes of a refusal.

use super::{Error, Settings, btf, capability};

/// What this process logs, in the numbers of `aya_log_common::Level`.
pub(super) fn log_level() -> u8 {
    use tracing::level_filters::LevelFilter;
    let current = LevelFilter::current();
    let levels = [
        LevelFilter::ERROR,
        LevelFilter::WARN,
        LevelFilter::INFO,
        LevelFilter::DEBUG,
        LevelFilter::TRACE,
    ];
    levels.iter().filter(|level| **level <= current).count() as u8
}

/// What the kernel side needs to read a packet's conntrack entry, or why it cannot.
pub(super) fn offsets(
    settings: &Settings,
    types: Result<btf::Btf, String>,
) -> Result<nodescope_ebpf::Offsets, String> {
    if !settings.nat {
        return Err("--nat-source says so".to_owned());
    }
    types?.conntrack().map_err(|error| error.to_string())
}

/// The running kernel's types, where the agent may use them: to read its memory by.
pub(super) fn kernel_types() -> Result<btf::Btf, String> {
    if !capability::may_read_kernel() {
        return Err("CAP_PERFMON is missing, needed to read the kernel's memory".to_owned());
    }
    btf::Btf::running().map_err(|error| error.to_string())
}

/// Why the kernel refuses a program: the right that is missing, or the verifier's last words.
pub(super) fn refused(error: &aya::programs::ProgramError) -> Error {
    /// Lines of the verifier's log that tell why; before them is the way that led there.
    const LAST: usize = 6;
    if !capability::may_read_kernel() {
        let why =
            "CAP_PERFMON is missing, without which this kernel's verifier takes no such program";
        return Error::Load(why.to_owned());
    }
    let text = chain(error);
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.len().saturating_sub(LAST).max(1);
    let last = lines.get(start..).unwrap_or_default();
    let first = lines.first().copied().unwrap_or_default();
    Error::Load(
        std::iter::once(first)
            .chain(last.iter().copied())
            .collect::<Vec<_>>()
            .join("; "),
    )
}

/// An error with everything beneath it: the verifier's words are at the bottom.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(inner) = next {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        next = inner.source();
    }
    text
}

/// Kernels before 5.11 charge maps to RLIMIT_MEMLOCK; later ones ignore it.
pub(super) fn lift_memlock() {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the structure is valid for the call, which reads it only.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) } != 0 {
        tracing::debug!("RLIMIT_MEMLOCK stays as it is");
    }
}

/// Gives free memory back to the kernel. glibc's allocator keeps what lies beneath something that
/// is in use, as what was needed to read the kernel's types does (malloc_trim(3)); others need not
/// be told.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
