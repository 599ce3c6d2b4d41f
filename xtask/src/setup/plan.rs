//! What is missing, and the commands that bring it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{self, quote};
use crate::toolchain::{self, Missing, OLDEST_MINOR, Toolchain};

use super::apt;

/// Programs that the lab and the tests run, and the packages they are in.
const PROGRAMS: [(&str, &str); 10] = [
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
    ("ping", "iputils-ping"),
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("faketime", "faketime"),
    // Only where there is none: another package may own the file, and dpkg refuses then.
    ("kubectl", "kubernetes-client"),
];

/// The real control plane's store, for labs with `KUBEBUILDER_ASSETS`; and its package.
const ETCD: (&str, &str) = ("etcd", "etcd-server");

/// Prometheus and its promtool, for the tests of metrics, rules and dashboards; their package, and
/// the service that it would start.
const PROMETHEUS: ([&str; 2], &str, &str) = (
    ["prometheus", "promtool"],
    "prometheus",
    "prometheus.service",
);

/// What builds images and runs containers, for `cargo xtask image` and the tests of `deploy/`;
/// each in a package of its name.
const CONTAINERS: [&str; 3] = ["buildah", "podman", "runc"];

/// Where systemd runs the machine (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// Debian's newest Rust: the one that its browsers are built with, and the only one recent enough.
const DEBIAN_RUST: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];

/// One command.
#[derive(Debug, Default)]
pub struct Step {
    /// What it is for.
    pub purpose: String,
    env: Vec<(&'static str, String)>,
    words: Vec<String>,
}

/// Everything to do, in order.
#[derive(Debug, Default)]
pub struct Plan {
    /// What is missing, in a word each.
    pub missing: Vec<String>,
    /// What brings it.
    pub steps: Vec<Step>,
}

/// Where the compiler for the bpf target is, or will be.
enum Rust {
    Here(PathBuf),
    FromApt { llvm: Option<u32> },
    FromRustup,
}

impl Plan {
    /// Looks at the machine.
    pub fn make() -> Self {
        let programs = PROGRAMS
            .iter()
            .filter(|(program, _)| shell::which(program).is_none());
        let (mut missing, mut packages): (Vec<_>, Vec<_>) = programs
            .map(|(program, package)| (program.to_string(), package.to_string()))
            .unzip();
        if wants_etcd() {
            missing.push(ETCD.0.to_owned());
            packages.push(ETCD.1.to_owned());
        }
        let mut steps = Vec::new();
        if wants_prometheus() {
            missing.push(PROMETHEUS.1.to_owned());
            packages.push(PROMETHEUS.1.to_owned());
            if Path::new(SYSTEMD).is_dir() {
                steps.push(without_service(PROMETHEUS.2));
            }
        }
        for program in CONTAINERS {
            if shell::which(program).is_none() && apt::candidate(program).is_some() {
                missing.push(program.to_owned());
                packages.push(program.to_owned());
            }
        }
        let mut later = Vec::new();
        if let Err(gap) = Toolchain::find() {
            let rust = rust(&gap, &mut missing, &mut packages, &mut later);
            if toolchain::linker().is_none() {
                missing.push("bpf-linker".to_owned());
                later.extend(linker(&rust, &mut packages));
            }
        }
        if !packages.is_empty() {
            let install = ["install", "--yes", "--no-install-recommends"].map(str::to_owned);
            let purpose = format!("Installing {}", packages.join(", "));
            steps.push(apt_step(&purpose, install.into_iter().chain(packages)));
        }
        steps.extend(later);
        Self { missing, steps }
    }

    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty()
    }

    /// Whether a step installs packages.
    pub fn needs_apt(&self) -> bool {
        self.steps.iter().any(Step::is_apt)
    }
}

/// Whether etcd is to be installed: it is nowhere, and either the lab's real control plane is set
/// up but for it, or apt has it.
fn wants_etcd() -> bool {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let beside = |dir: &PathBuf| dir.join(ETCD.0).is_file();
    if shell::which(ETCD.0).is_some() || assets.as_ref().is_some_and(beside) {
        return false;
    }
    assets.is_some() || apt::candidate(ETCD.1).is_some()
}

/// Whether Prometheus is to be installed: it is not here, and apt has it. Its tests are skipped
/// without.
fn wants_prometheus() -> bool {
    let here = PROMETHEUS.0.iter().all(|one| shell::which(one).is_some());
    !here && apt::candidate(PROMETHEUS.1).is_some()
}

/// A package's service is told not to run before the package brings it.
fn without_service(service: &str) -> Step {
    Step {
        purpose: format!(
            "Keeping {service} from running (`systemctl unmask {service}` takes this back)"
        ),
        words: ["systemctl", "mask", service].map(str::to_owned).to_vec(),
        env: Vec::new(),
    }
}

/// The compiler, from where it is, else from apt where apt's is recent, else from rustup.
fn rust(
    gap: &Missing,
    missing: &mut Vec<String>,
    packages: &mut Vec<String>,
    later: &mut Vec<Step>,
) -> Rust {
    if let (Missing::Linker, Some(prefix)) = (gap, toolchain::compiler()) {
        return Rust::Here(prefix);
    }
    missing.push("a Rust with rust-src".to_owned());
    let minor = apt::candidate("rust-web-src").and_then(|version| {
        version
            .strip_prefix("1.")?
            .split('.')
            .next()?
            .parse::<u32>()
            .ok()
    });
    match minor.filter(|minor| *minor >= OLDEST_MINOR) {
        Some(minor) => {
            packages.extend(DEBIAN_RUST.map(str::to_owned));
            Rust::FromApt {
                llvm: apt::llvm_of(&format!("libstd-rust-web-1.{minor}")),
            }
        }
        None => {
            let words = "rustup toolchain install nightly --profile minimal --component rust-src \
                         --component clippy";
            later.push(Step {
                purpose: "Installing a nightly Rust with the standard library's source".to_owned(),
                words: words.split_whitespace().map(str::to_owned).collect(),
                env: Vec::new(),
            });
            Rust::FromRustup
        }
    }
}

/// bpf-linker, built with the LLVM that the compiler uses where apt has it, else as released.
fn linker(rust: &Rust, packages: &mut Vec<String>) -> Vec<Step> {
    let (prefix, llvm) = match rust {
        Rust::Here(prefix) => (prefix.as_path(), llvm_of_compiler(prefix)),
        Rust::FromApt { llvm } => (Path::new("/usr"), *llvm),
        Rust::FromRustup => (Path::new(""), None),
    };
    let has_dev = |major: &u32| apt::candidate(&format!("llvm-{major}-dev")).is_some();
    let Some(major) = llvm.filter(has_dev) else {
        return released_linker();
    };
    packages.extend([format!("llvm-{major}-dev"), format!("libpolly-{major}-dev")]);
    let llvm_prefix = format!("/usr/lib/llvm-{major}");
    let path = std::env::var("PATH").unwrap_or_default();
    let install = [
        "install",
        "bpf-linker",
        "--no-default-features",
        "--features",
    ];
    let cargo = prefix.join("bin/cargo").display().to_string();
    vec![Step {
        purpose: format!("Building bpf-linker with LLVM {major} (some minutes)"),
        env: vec![
            ("LLVM_PREFIX", llvm_prefix.clone()),
            ("LIBRARY_PATH", format!("{llvm_prefix}/lib")),
            ("PATH", format!("{llvm_prefix}/bin:{path}")),
            ("RUSTC", prefix.join("bin/rustc").display().to_string()),
        ],
        words: std::iter::once(cargo)
            .chain(install.map(str::to_owned))
            .chain([format!("llvm-{major}")])
            .collect(),
    }]
}

/// The program as its makers release it, LLVM inside, fetched by cargo-binstall.
fn released_linker() -> Vec<Step> {
    let step = |purpose: &str, words: &str| Step {
        purpose: purpose.to_owned(),
        words: words.split_whitespace().map(str::to_owned).collect(),
        env: Vec::new(),
    };
    let mut steps = Vec::new();
    if shell::which("cargo-binstall").is_none() {
        steps.push(step(
            "Installing cargo-binstall",
            "cargo install cargo-binstall --locked",
        ));
    }
    steps.push(step(
        "Fetching bpf-linker",
        "cargo binstall --no-confirm bpf-linker",
    ));
    steps
}

/// The 22 of `LLVM version: 22.1.8`.
fn llvm_of_compiler(prefix: &Path) -> Option<u32> {
    let text = shell::output(prefix.join("bin/rustc"), &["-vV"])?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// The step before all others: without lists apt knows no packages at all, as in new containers.
pub fn refresh() -> Step {
    apt_step("Refreshing apt's package lists", ["update".to_owned()])
}

fn apt_step(purpose: &str, arguments: impl IntoIterator<Item = String>) -> Step {
    // Another installation may be under way on a machine that has just booted: wait for it.
    let lock = ["-o".to_owned(), "DPkg::Lock::Timeout=300".to_owned()];
    Step {
        purpose: purpose.to_owned(),
        env: vec![("DEBIAN_FRONTEND", "noninteractive".to_owned())],
        words: std::iter::once("apt-get".to_owned())
            .chain(lock)
            .chain(arguments)
            .collect(),
    }
}

impl Step {
    /// Whether this is apt's work.
    fn is_apt(&self) -> bool {
        self.words.first().is_some_and(|word| word == "apt-get")
    }

    /// Whether this takes root.
    pub fn takes_root(&self) -> bool {
        let systemctl = self.words.first().is_some_and(|word| word == "systemctl");
        systemctl || self.is_apt()
    }

    /// The command, ready to run.
    pub fn command(&self) -> Command {
        let mut words = self.words.iter();
        let mut command = toolchain::fresh(words.next().map(PathBuf::from).unwrap_or_default());
        command
            .args(words)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let env = self.env.iter().map(|(name, value)| {
            // The reader's own PATH, not ours.
            let value = if *name == "PATH" {
                value.split(':').next().unwrap_or("")
            } else {
                value
            };
            let rest = if *name == "PATH" { ":$PATH" } else { "" };
            format!("{name}={}{rest}", quote(value))
        });
        let words = self.words.iter().map(|word| quote(word));
        f.write_str(&env.chain(words).collect::<Vec<_>>().join(" "))
    }
}
