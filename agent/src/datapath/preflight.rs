//! Can the agent run here? Each thing it needs, tried or read, with what was found.

use std::path::Path;

use super::{Datapath, Method, Settings, btf, capability};

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

/// What each capability is for.
const CAPABILITIES: [(&str, u32, &str); 3] = [
    ("CAP_BPF", capability::BPF, "load programs and maps"),
    (
        "CAP_PERFMON",
        capability::PERFMON,
        "read the kernel's memory",
    ),
    (
        "CAP_NET_ADMIN",
        capability::NET_ADMIN,
        "attach to interfaces",
    ),
];

/// What a look at the machine found.
#[derive(Clone, Debug)]
pub struct Preflight {
    /// Item by item.
    pub items: Vec<PreflightItem>,
    /// Why translations cannot be read from packets; `None` when they can, or when nothing loads.
    pub nat_off: Option<String>,
}

/// Looks at everything, the real programs' load included.
pub fn preflight() -> Preflight {
    let mut items = vec![kernel(), types()];
    items.extend(capabilities());
    let (loaded, nat_off) = load();
    items.extend(loaded);
    items.push(attachment());
    Preflight { items, nat_off }
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
    let held = capability::effective();
    CAPABILITIES
        .iter()
        .map(|(name, bit, purpose)| {
            let (verdict, evidence) = match held {
                None => (
                    Verdict::Unknown,
                    "/proc/self/status does not say".to_owned(),
                ),
                Some(set) if set & (1 << bit) != 0 => (Verdict::Pass, format!("held: {purpose}")),
                Some(set)
                    if *bit != capability::NET_ADMIN && set & (1 << capability::SYS_ADMIN) != 0 =>
                {
                    (
                        Verdict::Pass,
                        format!("CAP_SYS_ADMIN stands for it: {purpose}"),
                    )
                }
                Some(_) if *bit == capability::PERFMON => (
                    Verdict::Unknown,
                    format!(
                        "missing, needed to {purpose}: the agent does without, slower, takes \
                         translations from conntrack's events, and sees neither drops nor \
                         retransmissions"
                    ),
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

/// The programs, and what the kernel tells of drops; why translations cannot be read.
fn load() -> (Vec<PreflightItem>, Option<String>) {
    let settings = Settings {
        max_connections: 1024,
        nat: true,
        dns_questions: false,
        method: None,
        pinning: None,
    };
    let name = "programs";
    match Datapath::load(&settings) {
        Ok(mut datapath) => {
            let drops = drops(&mut datapath);
            let programs = PreflightItem {
                name,
                verdict: Verdict::Pass,
                evidence: format!("loaded and verified{}", instructions(&datapath)),
            };
            let nat_off = datapath.nat_off().map(str::to_owned);
            (vec![programs, drops], nat_off)
        }
        Err(error) => {
            let programs = PreflightItem {
                name,
                verdict: Verdict::Fail,
                evidence: error.to_string(),
            };
            (vec![programs], None)
        }
    }
}

fn drops(datapath: &mut Datapath) -> PreflightItem {
    let (verdict, evidence) = match datapath.try_drops() {
        Ok(0) => (
            Verdict::Pass,
            "dropped packets are seen; this kernel does not say why (before 5.17)".to_owned(),
        ),
        Ok(reasons) => (
            Verdict::Pass,
            format!("dropped packets are seen, with {reasons} reasons"),
        ),
        Err(why) => (
            Verdict::Unknown,
            format!("dropped packets are not seen: {why}"),
        ),
    };
    PreflightItem {
        name: "drops",
        verdict,
        evidence,
    }
}

/// How many instructions the verifier looked at, where the kernel tells.
fn instructions(datapath: &Datapath) -> String {
    let programs: Vec<String> = datapath
        .programs()
        .into_iter()
        .filter_map(|program| Some(format!("{} {}", program.name, program.instructions?)))
        .collect();
    if programs.is_empty() {
        String::new()
    } else {
        format!(" (instructions: {})", programs.join(", "))
    }
}

fn attachment() -> PreflightItem {
    let method = Method::of_this_kernel();
    let bpffs = super::pins::is_bpffs(Path::new("/sys/fs/bpf"));
    PreflightItem {
        name: "attachment",
        verdict: Verdict::Pass,
        evidence: format!(
            "{} on this kernel; {}",
            method.name(),
            if bpffs {
                "a restart misses no packet"
            } else {
                "no BPF file system at /sys/fs/bpf: what passes during a restart is not counted"
            }
        ),
    }
}
