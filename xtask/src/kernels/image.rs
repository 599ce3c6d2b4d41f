//! The guest's files: modules, a few programs of this machine with their libraries, the tests.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::package::Kernel;
use super::{output, text};
use crate::shell;

/// The guest's first process.
const INIT: &str = include_str!("init.sh");

/// Modules that the tests need, with what those depend on. Some kernels have some of them built
/// in, or do not have them.
const MODULES: [&str; 24] = [
    "veth",
    "bonding",
    "bridge",
    "br_netfilter",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "nf_tables",
    "nft_compat",
    "nft_chain_nat",
    "nft_counter",
    "nft_ct",
    "nft_masq",
    "nft_nat",
    "ip_tables",
    "iptable_nat",
    "iptable_filter",
    "xt_MASQUERADE",
    "xt_nat",
    "xt_conntrack",
    "xt_comment",
    "xt_tcpudp",
    "sch_ingress",
    "cls_bpf",
];

/// Programs of this machine that the tests run.
const PROGRAMS: [&str; 5] = ["busybox", "ip", "tc", "conntrack", "iptables"];

/// iptables' extensions, which it loads by name.
const EXTENSIONS: [&str; 8] = [
    "libxt_standard.so",
    "libxt_MASQUERADE.so",
    "libipt_MASQUERADE.so",
    "libxt_conntrack.so",
    "libxt_comment.so",
    "libxt_tcp.so",
    "libxt_udp.so",
    "libxt_DNAT.so",
];

/// Makes the initramfs of a kernel.
///
/// # Errors
/// A program is missing, or a file cannot be written.
pub fn make(cache: &Path, kernel: &Kernel, tests: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let root = cache.join(format!("root-{}", kernel.release));
    let _ = fs::remove_dir_all(&root);
    for dir in [
        "bin", "sbin", "dev", "proc", "sys", "tmp", "run", "etc", "tests",
    ] {
        fs::create_dir_all(root.join(dir))?;
    }
    modules(kernel, &root)?;
    for program in PROGRAMS {
        let path = shell::which(program)
            .with_context(|| format!("{program} is not installed: run `cargo xtask setup`"))?;
        put(&root, &path, &path)?;
    }
    symlink(
        shell::which("busybox").context("no busybox")?,
        root.join("bin/busybox"),
    )
    .or_else(|error| match error.kind() {
        // It lies there itself.
        std::io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    })?;
    for dir in library_dirs() {
        for name in EXTENSIONS {
            let file = dir.join("xtables").join(name);
            if file.exists() {
                put(&root, &file, &file)?;
            }
        }
    }
    for test in tests {
        let name = test.file_name().context("a test without a name")?;
        let name = name.to_string_lossy();
        // Without the hash that cargo adds.
        let name = name.rsplit_once('-').map_or(&*name, |(name, _)| name);
        put(&root, test, &Path::new("/tests").join(name))?;
    }
    fs::write(root.join("modules"), MODULES.join("\n") + "\n")?;
    let init = root.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    archive(cache, &root, &kernel.release)
}

fn library_dirs() -> Vec<PathBuf> {
    let arch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    vec![PathBuf::from(arch), PathBuf::from("/usr/lib64")]
}

/// Copies a file to a place in the image, and the libraries that it is linked to beside.
fn put(root: &Path, file: &Path, to: &Path) -> anyhow::Result<()> {
    copy(root, file, to)?;
    let Some(listing) = shell::output("ldd", &[&text(file)]) else {
        // Linked to nothing.
        return Ok(());
    };
    for library in listing
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        copy(root, Path::new(library), Path::new(library))?;
    }
    Ok(())
}

fn copy(root: &Path, file: &Path, to: &Path) -> anyhow::Result<()> {
    let place = root.join(to.strip_prefix("/").unwrap_or(to));
    if place.exists() {
        return Ok(());
    }
    if let Some(dir) = place.parent() {
        fs::create_dir_all(dir)?;
    }
    // The contents, where it is a link.
    fs::copy(file, &place).with_context(|| format!("copying {}", file.display()))?;
    Ok(())
}

/// Copies the modules and what they depend on, decompressed, and writes their index.
fn modules(kernel: &Kernel, root: &Path) -> anyhow::Result<()> {
    let dependencies = dependencies(kernel)?;
    let mut files = BTreeSet::new();
    for line in dependencies.lines() {
        let (file, needs) = line.split_once(':').context("modules.dep is malformed")?;
        let name = file.rsplit('/').next().unwrap_or(file);
        let name = name.split(".ko").next().unwrap_or(name);
        if MODULES.contains(&name) {
            files.insert(file);
            files.extend(needs.split_whitespace());
        }
    }
    let to = root.join("lib/modules").join(&kernel.release);
    for file in files {
        let from = kernel.modules.join(file);
        let plain = file.trim_end_matches(".xz").trim_end_matches(".zst");
        let place = to.join(plain);
        if let Some(dir) = place.parent() {
            fs::create_dir_all(dir)?;
        }
        let unpacked = match file.rsplit('.').next() {
            Some("xz") => output(Command::new("xz").arg("-dc").arg(&from))?,
            Some("zst") => output(Command::new("zstd").arg("-dqc").arg(&from))?,
            _ => fs::read(&from)?,
        };
        fs::write(&place, unpacked)?;
    }
    depmod(root, &kernel.release)
}

/// The package's own index is made at its installation: made here, once.
fn dependencies(kernel: &Kernel) -> anyhow::Result<String> {
    let index = kernel.modules.join("modules.dep");
    if !index.exists() {
        // .../lib/modules/<release>: depmod wants the directory that holds lib.
        let base = kernel.modules.ancestors().nth(3).context("no base")?;
        depmod(base, &kernel.release)?;
    }
    fs::read_to_string(&index).with_context(|| format!("reading {}", index.display()))
}

fn depmod(base: &Path, release: &str) -> anyhow::Result<()> {
    let program = shell::which("depmod").context("no depmod")?;
    output(Command::new(program).arg("-b").arg(base).arg(release))?;
    Ok(())
}

/// Packs a directory as the kernel takes it.
fn archive(cache: &Path, root: &Path, release: &str) -> anyhow::Result<PathBuf> {
    let file = cache.join(format!("initrd-{release}"));
    let list = output(Command::new("find").arg(".").current_dir(root))?;
    let busybox = shell::which("busybox").context("no busybox")?;
    let mut cpio = Command::new(busybox)
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(&file)?)
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run busybox cpio")?;
    if let Some(mut stdin) = cpio.stdin.take() {
        std::io::Write::write_all(&mut stdin, &list)?;
    }
    if !cpio.wait()?.success() {
        bail!("busybox cpio failed");
    }
    fs::remove_dir_all(root)?;
    Ok(file)
}
