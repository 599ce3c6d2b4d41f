//! Kernels from Debian's packages, by way of the mirror that this machine's apt is set to. A
//! private apt state beside the build's files knows the other suites; the machine's own does not
//! change.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, bail};

use super::{output, text};
use crate::shell;

/// Kernel series that are tested by default, and the suite that has each.
pub const SERIES: [(&str, &str); 4] = [
    ("5.10", "bullseye"),
    ("6.1", "bookworm"),
    ("6.12", "trixie"),
    (NEWEST, "trixie-backports"),
];

/// Stands for the highest version that its suite has.
pub const NEWEST: &str = "newest";

/// Suites that are searched for a series that is not in [`SERIES`].
const OTHERS: [&str; 2] = ["trixie-backports", "sid"];

/// Programs that the images are made with, and their packages.
const TOOLS: [(&str, &str); 5] = [
    (super::guest::QEMU, "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// Debian's key, which signs the other suites too.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An unpacked kernel.
pub struct Kernel {
    /// As `uname -r` has it.
    pub release: String,
    /// The image.
    pub vmlinuz: PathBuf,
    /// `lib/modules/<release>`.
    pub modules: PathBuf,
}

/// Installs the programs that are missing.
///
/// # Errors
/// There is no apt, or it cannot.
pub fn tools() -> anyhow::Result<()> {
    let missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(program, _)| shell::which(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if shell::which("apt-get").is_none() || !shell::is_root() {
        bail!(
            "{} needed, and no apt-get to install with as root",
            missing.join(", ")
        );
    }
    // With the lists that are here first: they are most often fresh enough.
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.args(["install", "--yes", "--no-install-recommends"]);
        output(apt.args(&missing).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    eprintln!("installing {}", missing.join(", "));
    if install().is_err() {
        output(Command::new("apt-get").arg("update"))?;
        install()?;
    }
    Ok(())
}

/// A kernel, downloaded and unpacked; at once when it is in the cache.
///
/// # Errors
/// apt has none of that series, or cannot fetch it.
pub fn fetch(cache: &Path, series: &str) -> anyhow::Result<Kernel> {
    /// One at a time: they share apt's state.
    static APT: Mutex<()> = Mutex::new(());
    let _one = APT.lock();
    let dir = cache.join(series);
    if !dir.join("complete").exists() {
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        download(cache, &dir, series)?;
        fs::write(dir.join("complete"), "")?;
    }
    let modules = child(&dir.join("lib/modules"))
        .or_else(|_| child(&dir.join("usr/lib/modules")))
        .with_context(|| format!("the package of Linux {series} has no modules"))?;
    let release = modules
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    // In /boot, or since 7.0 beside the modules.
    let vmlinuz = [
        dir.join(format!("boot/vmlinuz-{release}")),
        modules.join("vmlinuz"),
        dir.join(format!("lib/modules/{release}/vmlinuz")),
    ];
    let vmlinuz = vmlinuz
        .into_iter()
        .find(|file| file.exists())
        .with_context(|| format!("the package of Linux {series} has no image"))?;
    Ok(Kernel {
        release,
        vmlinuz,
        modules,
    })
}

/// The one directory in a directory.
fn child(dir: &Path) -> anyhow::Result<PathBuf> {
    let first = fs::read_dir(dir)?.next().context("empty")??;
    Ok(first.path())
}

fn download(cache: &Path, dir: &Path, series: &str) -> anyhow::Result<()> {
    let known = SERIES.iter().find(|(name, _)| *name == series);
    let suites: Vec<&str> = match known {
        Some((_, suite)) => vec![suite],
        None => SERIES
            .iter()
            .map(|(_, suite)| *suite)
            .chain(OTHERS)
            .collect(),
    };
    let apt = Apt::new(&cache.join("apt"), &suites)?;
    let packages = apt.kernel(series)?;
    eprintln!("fetching {}", packages.join(", "));
    let debs = dir.join("debs");
    fs::create_dir_all(&debs)?;
    output(
        apt.command("apt-get")
            .arg("download")
            .args(&packages)
            .current_dir(&debs),
    )?;
    for deb in fs::read_dir(&debs)? {
        output(Command::new("dpkg-deb").arg("-x").arg(deb?.path()).arg(dir))?;
    }
    fs::remove_dir_all(&debs)?;
    Ok(())
}

/// apt with a state of its own.
struct Apt {
    config: PathBuf,
}

impl Apt {
    fn new(dir: &Path, suites: &[&str]) -> anyhow::Result<Self> {
        let mirror = mirror()?;
        let here = text(dir);
        for sub in ["lists/partial", "cache/archives/partial", "sources"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        fs::write(dir.join("status"), "")?;
        let signed = if Path::new(KEYRING).exists() {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        let sources: String = suites
            .iter()
            .map(|suite| format!("deb {signed}{mirror} {suite} main\n"))
            .collect();
        fs::write(dir.join("sources/kernels.list"), sources)?;
        let config = dir.join("apt.conf");
        fs::write(
            &config,
            format!(
                "Dir::State \"{here}\";\n\
                 Dir::State::status \"{here}/status\";\n\
                 Dir::State::Lists \"{here}/lists\";\n\
                 Dir::Cache \"{here}/cache\";\n\
                 Dir::Etc::SourceList \"/dev/null\";\n\
                 Dir::Etc::SourceParts \"{here}/sources\";\n\
                 Acquire::Languages \"none\";\n\
                 Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
                 APT::Sandbox::User \"root\";\n\
                 APT::Architecture \"amd64\";\n"
            ),
        )?;
        let apt = Self { config };
        output(apt.command("apt-get").arg("update")).context("reading the mirror's lists")?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config);
        command
    }

    /// Packages of the newest cloud kernel of a series.
    fn kernel(&self, series: &str) -> anyhow::Result<Vec<String>> {
        let listing = output(self.command("apt-cache").arg("pkgnames"))?;
        let listing = String::from_utf8_lossy(&listing);
        let release = listing
            .lines()
            .filter_map(|name| {
                let release = name.strip_prefix("linux-image-")?;
                release.strip_suffix("-cloud-amd64").map(|_| release)
            })
            .filter(|release| {
                let rest = release.strip_prefix(series);
                series == NEWEST || rest.is_some_and(|rest| rest.starts_with(['.', '-', '+']))
            })
            .filter(|release| release.starts_with(|first: char| first.is_ascii_digit()))
            .max_by_key(|release| numbers(release))
            .with_context(|| format!("the mirror has no Linux {series} for clouds"))?;
        // From 7.0 on the image is in parts, and the package of that name is empty.
        let parts: Vec<String> = ["binary", "modules"]
            .map(|part| format!("linux-{part}-{release}"))
            .into_iter()
            .filter(|name| listing.lines().any(|line| line == name))
            .collect();
        Ok(if parts.len() == 2 {
            parts
        } else {
            let mut whole = vec![format!("linux-image-{release}")];
            whole.extend(parts);
            whole
        })
    }
}

/// The numbers in a version, to compare by.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Where this machine's apt has its own suite from.
fn mirror() -> anyhow::Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let value = |key: &str| {
        release
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
    };
    if value("ID").as_deref() != Some("debian") {
        bail!("the kernels come from the mirror of a Debian, and this is none");
    }
    let codename = value("VERSION_CODENAME").unwrap_or_else(|| "sid".to_owned());
    let format = "$(RELEASE) $(COMPONENT) $(REPO_URI)";
    let targets = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
    ]))?;
    String::from_utf8_lossy(&targets)
        .lines()
        .find_map(|line| {
            let mut words = line.split(' ');
            let (suite, component, uri) = (words.next()?, words.next()?, words.next()?);
            (suite == codename && component == "main").then(|| uri.to_owned())
        })
        .with_context(|| format!("apt is not set to a mirror of {codename}"))
}
