//! Finds a Rust that can compile for the bpf target, and bpf-linker beside it.
//!
//! The bpf targets have no precompiled `core`, so the compiler needs the standard library's
//! source next to it (`rust-src`). Which Rust on a machine has that differs: rustup's nightly on
//! most, a distribution's package on others. This file looks at both and takes the first that
//! fits; build.rs compiles with it and `cargo xtask` asks it whether anything is missing.
//! It depends on nothing but the standard library, because both include it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Oldest Rust, as the minor version, that compiles agent-ebpf and its dependencies: the
/// workspace's `rust-version`.
pub const OLDEST_MINOR: u32 = 89;

/// The linker that makes one eBPF object, with BTF, out of LLVM bitcode.
const LINKER: &str = "bpf-linker";

/// A Rust with the standard library's source, and the linker.
#[derive(Debug)]
pub struct Toolchain {
    /// The compiler's prefix: `bin/rustc`, `bin/cargo` and `lib/rustlib` are below it.
    pub prefix: PathBuf,
    /// Path of bpf-linker.
    pub linker: PathBuf,
}

/// What keeps this machine from compiling eBPF.
#[derive(Debug)]
pub enum Missing {
    /// No Rust has the standard library's source.
    Source,
    /// There is a Rust, but no bpf-linker.
    Linker,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source => write!(
                f,
                "no Rust (1.{OLDEST_MINOR} or later) with the standard library's source was found \
                 to compile agent-ebpf for the bpf target: run `cargo xtask setup`, or \
                 `rustup toolchain install nightly --component rust-src`"
            ),
            Self::Linker => write!(
                f,
                "{LINKER} is not on PATH nor in cargo's bin directory, so agent-ebpf cannot be \
                 linked: run `cargo xtask setup`, or `cargo install {LINKER}`"
            ),
        }
    }
}

impl std::error::Error for Missing {}

impl Toolchain {
    /// Looks at rustup's toolchains (nightlies first), then at the system's Rust.
    ///
    /// # Errors
    /// [`Missing`], which says what to install.
    pub fn find() -> Result<Self, Missing> {
        let prefix = compiler().ok_or(Missing::Source)?;
        let linker = linker().ok_or(Missing::Linker)?;
        Ok(Self { prefix, linker })
    }

    /// Whether this Rust has clippy, so that the kernel side can be linted too.
    #[allow(
        dead_code,
        reason = "called by xtask only; build.rs includes this file as well"
    )]
    pub fn has_clippy(&self) -> bool {
        self.prefix.join("bin/cargo-clippy").exists()
            && self.prefix.join("bin/clippy-driver").exists()
    }

    /// This toolchain's cargo, ready to work for a bpf target of this processor architecture
    /// (`x86_64`, `aarch64`, … as in `CARGO_CFG_TARGET_ARCH`), and deaf to the settings of the
    /// cargo that started us: clippy's wrapper, flags and targets are meant for the host.
    pub fn cargo(&self, arch: &str) -> Command {
        self.command("cargo", arch)
    }

    /// The same for clippy, called by its own name: `cargo clippy` would find the `cargo-clippy`
    /// of another Rust first, in cargo's bin directory.
    #[allow(
        dead_code,
        reason = "called by xtask only; build.rs includes this file as well"
    )]
    pub fn clippy(&self, arch: &str) -> Command {
        let mut command = self.command("cargo-clippy", arch);
        command
            .env("CARGO", self.prefix.join("bin/cargo"))
            .arg("clippy");
        command
    }

    fn command(&self, program: &str, arch: &str) -> Command {
        let bin = self.prefix.join("bin");
        let mut command = fresh(bin.join(program));
        let flags = [
            format!("--cfg=bpf_target_arch=\"{arch}\""),
            // Debug information is what bpf-linker makes BTF of, and without --btf it makes none.
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
        ];
        command
            .env("PATH", self.search_path(&bin))
            .env("RUSTC", bin.join("rustc"))
            // build-std is a nightly feature; the bootstrap switch opens it on a stable Rust.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            // bpf-linker optimises the whole program itself, and a stripped object has no BTF.
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_STRIP", "none");
        command
    }

    /// `PATH` with the linker's directory and the toolchain's own in front.
    fn search_path(&self, bin: &Path) -> OsString {
        let old = std::env::var_os("PATH").unwrap_or_default();
        let front = [
            self.linker.parent().map(Path::to_owned),
            Some(bin.to_owned()),
        ];
        let all = front
            .into_iter()
            .flatten()
            .chain(std::env::split_paths(&old));
        // Joining fails only for a directory with a colon in its name, which PATH cannot hold.
        std::env::join_paths(all).unwrap_or(old)
    }
}

/// Prefix of the first Rust that can compile for the bpf target.
pub fn compiler() -> Option<PathBuf> {
    prefixes()
        .into_iter()
        .find(|prefix| has_source(prefix) && is_recent(prefix))
}

/// A command that does not hear the settings of the cargo, clippy or rustup that started us.
pub fn fresh(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if is_outer_setting(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    command
}

/// Arguments that compile for the bpf target whose byte order is `endian` (`little` or `big`).
pub fn target_args(endian: &str) -> [&'static str; 4] {
    let target = if endian == "big" {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    };
    ["--target", target, "-Z", "build-std=core"]
}

/// Whether an environment variable belongs to the cargo, clippy or rustup that started us.
/// Where crates come from and how (`CARGO_HOME`, network, registries) stays.
fn is_outer_setting(name: &str) -> bool {
    const STAYS: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    const GOES: [&str; 7] = [
        "CARGO",
        "CLIPPY_",
        "DYLD_",
        "LD_LIBRARY_PATH",
        "RUSTC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    GOES.iter().any(|prefix| name.starts_with(prefix))
        && !STAYS.iter().any(|prefix| name.starts_with(prefix))
}

/// Where a Rust may be, best first.
fn prefixes() -> Vec<PathBuf> {
    let rustup = std::env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| in_home(".rustup"));
    let mut toolchains: Vec<PathBuf> = rustup
        .and_then(|home| std::fs::read_dir(home.join("toolchains")).ok())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    // A nightly opens build-std by right; among the others the name decides, for stable builds.
    toolchains.sort_by_key(|path| (!is_nightly(path), path.clone()));
    toolchains.extend(["/usr/local", "/usr"].map(PathBuf::from));
    toolchains
}

fn is_nightly(toolchain: &Path) -> bool {
    toolchain
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("nightly"))
}

fn has_source(prefix: &Path) -> bool {
    prefix
        .join("lib/rustlib/src/rust/library/core/Cargo.toml")
        .exists()
        && prefix.join("bin/cargo").exists()
}

/// Whether the compiler below `prefix` runs and is new enough.
fn is_recent(prefix: &Path) -> bool {
    let Ok(output) = Command::new(prefix.join("bin/rustc"))
        .arg("--version")
        .output()
    else {
        return false;
    };
    minor_version(&String::from_utf8_lossy(&output.stdout)) >= Some(OLDEST_MINOR)
}

/// The 96 of `rustc 1.96.0 (… 2026-05-25)`.
fn minor_version(line: &str) -> Option<u32> {
    line.strip_prefix("rustc 1.")?
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// Path of bpf-linker: on PATH, or where cargo installs.
pub fn linker() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| in_home(".cargo"));
    std::env::split_paths(&path)
        .chain(cargo.map(|home| home.join("bin")))
        .map(|dir| dir.join(LINKER))
        .find(|file| file.is_file())
}

fn in_home(name: &str) -> Option<PathBuf> {
    Some(Path::new(&std::env::var_os("HOME")?).join(name))
}
