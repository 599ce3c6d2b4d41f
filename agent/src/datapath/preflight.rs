//! Can the agent run here? Each thing it needs, tried or read, with what was found.

use std::path::Path;

use super::{Datapath, Method, Settings, btf};

/// Outcome of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
    Pass,
    /// It is not, and the agent cannot do without.
    Fail,
    /// It is not, and the agent does without or could not look.
    Unknown,
}

/// One thing that the agent needs.
#[derive(Clone, Debug)]
pub struct PreflightItem {
    /// What.
    pub name: &'static str,
    /// Whether it is there.
    pub verdict: Verdict,
    /// What was found, and the mend where it is missing.
    pub evidence: String,
}

/// Capability numbers (uapi linux/capability.h).
const CAPABILITIES: [(&str, u32, &str); 3] = [
    ("CAP_BPF", 39, "load programs and maps"),
    (
        "CAP_PERFMON",
        38,
        "read translations from the kernel's memory",
    ),
    ("CAP_NET_ADMIN", 12, "attach to interfaces"),
];
/// CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON, as it did before they were split off.
const SYS_ADMIN: u32 = 21;

/// Looks at everything, the real programs' load included.
pub fn preflight() -> Vec<PreflightItem> {
    let mut items = vec![kernel(), types()];
    items.extend(capabilities());
    items.push(load());
    items.push(attachment());
    items
}

fn kernel() -> PreflightItem {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    let (verdict, evidence) = match &release {
        Ok(release) => (Verdict::Pass, format!("Linux {}", release.trim())),
        Err(error) => (
            Verdict::Unknown,
            format!("/proc/sys/kernel/osrelease: {error}"),
        ),
    };
    PreflightItem {
        name: "kernel",
        verdict,
        evidence,
    }
}

fn types() -> PreflightItem {
    let (verdict, evidence) = match btf::Btf::running().and_then(|btf| btf.conntrack()) {
        Ok(offsets) => (
            Verdict::Pass,
            format!(
                "{}: sk_buff._nfct at {}, nf_conn.tuplehash at {}",
                btf::VMLINUX,
                offsets.nfct,
                offsets.tuplehash
            ),
        ),
        // The agent runs without; it then knows no translations.
        Err(error) => (Verdict::Unknown, error.to_string()),
    };
    PreflightItem {
        name: "kernel-types",
        verdict,
        evidence,
    }
}

fn capabilities() -> Vec<PreflightItem> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    CAPABILITIES
        .iter()
        .map(|(name, bit, purpose)| {
            let (verdict, evidence) = match held {
                None => (
                    Verdict::Unknown,
                    "/proc/self/status does not say".to_owned(),
                ),
                Some(set) if set & (1 << bit) != 0 => (Verdict::Pass, format!("held: {purpose}")),
                Some(set) if *bit != 12 && set & (1 << SYS_ADMIN) != 0 => (
                    Verdict::Pass,
                    format!("CAP_SYS_ADMIN stands for it: {purpose}"),
                ),
                Some(_) => (
                    Verdict::Fail,
                    format!(
                        "missing, needed to {purpose}: run as root or grant it to the container"
                    ),
                ),
            };
            PreflightItem {
                name,
                verdict,
                evidence,
            }
        })
        .collect()
}

fn load() -> PreflightItem {
    let settings = Settings {
        max_connections: 1024,
        nat: true,
        method: None,
    };
    let (verdict, evidence) = match Datapath::load(&settings) {
        Ok(datapath) => (
            Verdict::Pass,
            match datapath.nat_off() {
                None => "loaded and verified; translations are read from packets".to_owned(),
                Some(why) => format!("loaded and verified; translations are not read: {why}"),
            },
        ),
        Err(error) => (Verdict::Fail, error.to_string()),
    };
    PreflightItem {
        name: "programs",
        verdict,
        evidence,
    }
}

fn attachment() -> PreflightItem {
    let method = Method::of_this_kernel();
    let bpffs = Path::new("/sys/fs/bpf").exists();
    PreflightItem {
        name: "attachment",
        verdict: Verdict::Pass,
        evidence: format!(
            "{} on this kernel{}",
            method.name(),
            if bpffs {
                ""
            } else {
                "; /sys/fs/bpf is not there"
            }
        ),
    }
}
