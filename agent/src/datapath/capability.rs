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

/// What to do when the kernel refuses: grant the capabilities that are missing, by name.
pub fn advice() -> String {
    let Some(set) = effective() else {
        return "the agent needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN".to_owned();
    };
    advice_for(set)
}

fn advice_for(set: u64) -> String {
    let admin = set & (1 << SYS_ADMIN) != 0;
    let needed = [
        ("CAP_BPF", BPF, admin),
        ("CAP_PERFMON", PERFMON, admin),
        ("CAP_NET_ADMIN", NET_ADMIN, false),
    ];
    let missing = needed
        .iter()
        .filter(|(_, bit, implied)| !implied && set & (1 << bit) == 0)
        .map(|(name, ..)| *name);
    match missing.collect::<Vec<_>>().join(" and ") {
        none if none.is_empty() => {
            "`nodescope check --preflight` tries each thing that the agent needs".to_owned()
        }
        names => format!("{names} is missing: run as root or grant it to the container"),
    }
}

/// Whether programs may read the kernel's memory, and may be such as the verifier takes only
/// with that right; true as well where it is not known.
pub fn may_read_kernel() -> bool {
    effective().is_none_or(|set| set & (1 << PERFMON | 1 << SYS_ADMIN) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let all = 1 << BPF | 1 << PERFMON | 1 << NET_ADMIN;
        assert!(advice_for(all).contains("--preflight"));
        let advice = advice_for(all & !(1 << BPF));
        assert!(advice.contains("CAP_BPF") && !advice.contains("CAP_PERFMON"));
        let old = advice_for(1 << SYS_ADMIN);
        assert!(old.starts_with("CAP_NET_ADMIN is missing"), "{old}");
    }
}
