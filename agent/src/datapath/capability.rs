//! What this process may do.

/// `CAP_NET_ADMIN` (uapi linux/capability.h, as the next ones).
pub const NET_ADMIN: u32 = 12;
/// `CAP_SYS_ADMIN`: stands for the next two, as it did before they were split off.
pub const SYS_ADMIN: u32 = 21;
/// `CAP_PERFMON`.
pub const PERFMON: u32 = 38;
/// `CAP_BPF`.
pub const BPF: u32 = 39;

/// The effective set of this process, a bit each; `None` where /proc does not say.
pub fn effective() -> Option<u64> {
    std::fs::read_to_string("/proc/self/status")
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
}

/// Whether programs may read the kernel's memory, and may be such as the verifier takes only
/// with that right; true as well where it is not known.
pub fn may_read_kernel() -> bool {
    effective().is_none_or(|set| set & (1 << PERFMON | 1 << SYS_ADMIN) != 0)
}
