//! The agent as an OCI image: one static program, from scratch.

mod bill;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;

use crate::{setup, shell, workspace};

/// Where the program is in the image: in a container's default PATH.
const PROGRAM: &str = "/usr/local/bin/nodescope";
/// What is in it, and under which licences.
const PAPERS: &str = "/usr/share/doc/nodescope";
/// Above this a released image, unpacked, has something in it that it should not.
const LARGEST: u64 = 25 * 1024 * 1024;

/// Processors that images are made for, as Rust calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

impl Arch {
    fn of_host() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::Amd64),
            "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }

    /// As OCI calls it (image-spec, `platform.architecture`).
    fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    fn rust(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Debian's name of the linker.
    fn linker(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu-gcc",
            Self::Arm64 => "aarch64-linux-gnu-gcc",
        }
    }
}

/// What to build.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Processor to build for, the host's if not said; may be given several times
    #[arg(long, value_enum)]
    arch: Vec<Arch>,
    /// Pack the program of the test build, with the libraries that it is linked to
    #[arg(long)]
    debug: bool,
    /// Name and tag of the image
    #[arg(long, default_value = concat!("nodescope:", env!("CARGO_PKG_VERSION")))]
    name: String,
    /// Folder for the archives
    #[arg(long, default_value = "target/image")]
    out: PathBuf,
}

/// Builds the images and leaves each as an OCI archive.
///
/// # Errors
/// Something to build with is missing, a build fails, or the image is too large.
pub fn run(options: &Options) -> anyhow::Result<()> {
    setup::ensure()?;
    ensure!(
        shell::which("buildah").is_some(),
        "buildah is not installed: apt-get install buildah"
    );
    let host = Arch::of_host().context("images are made for amd64 and arm64 only")?;
    let root = workspace::root()?;
    let out = root.join(&options.out);
    let wanted = match options.arch.as_slice() {
        [] => vec![host],
        some => some.to_vec(),
    };
    for arch in wanted {
        if arch != host && !can_cross(arch) {
            println!(
                "skipped: {}: takes `rustup target add {}` and {}",
                arch.name(),
                arch.rust(),
                arch.linker()
            );
            continue;
        }
        let (program, libraries) = if options.debug {
            // Linked once more it would take minutes: the libraries go along instead.
            let program = workspace::build()?.nodescope;
            let libraries = libraries(&program)?;
            (program, libraries)
        } else {
            (build(arch, host)?, Vec::new())
        };
        let folder = out.join(arch.name());
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let bill = bill::Bill::of(&root, arch.rust())?;
        std::fs::write(folder.join("sbom.cdx.json"), bill.cyclone_dx()?)?;
        std::fs::write(folder.join("LICENSES"), bill.licences())?;
        let archive = out.join(format!("nodescope-{}.tar", arch.name()));
        let contents = Contents {
            folder: &folder,
            program: &program,
            libraries: &libraries,
        };
        let unpacked = pack(&root, &contents, arch, &options.name, &archive)?;
        let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
        println!(
            "{}: {:.1} MiB, unpacked {:.1} MiB, {} packages",
            archive.display(),
            mib(std::fs::metadata(&archive)?.len()),
            mib(unpacked),
            bill.len()
        );
        ensure!(
            options.debug || unpacked <= LARGEST,
            "the image is larger than 25 MiB"
        );
    }
    Ok(())
}

/// The image of the test build for this machine, for its tests.
///
/// # Errors
/// As [`run`].
pub fn debug() -> anyhow::Result<PathBuf> {
    let out = workspace::target()?.join("image");
    let options = Options {
        arch: Vec::new(),
        debug: true,
        name: "nodescope:test".to_owned(),
        out: out.clone(),
    };
    run(&options)?;
    let host = Arch::of_host().context("images are made for amd64 and arm64 only")?;
    Ok(out.join(format!("nodescope-{}.tar", host.name())))
}

/// Whether the standard library and a linker for another processor are here.
fn can_cross(arch: Arch) -> bool {
    let installed = shell::output("rustup", &["target", "list", "--installed"]);
    installed.is_some_and(|list| list.lines().any(|line| line == arch.rust()))
        && shell::which(arch.linker()).is_some()
}

/// Links the program with everything inside, and gives its path.
fn build(arch: Arch, host: Arch) -> anyhow::Result<PathBuf> {
    let mut cargo = workspace::cargo()?;
    cargo.args(["rustc", "--release", "--package", "nodescope"]);
    cargo.args(["--bin", "nodescope"]);
    let mut target = workspace::target()?;
    if arch != host {
        cargo.args(["--target", arch.rust()]);
        let name = arch.rust().to_uppercase().replace('-', "_");
        cargo.env(format!("CARGO_TARGET_{name}_LINKER"), arch.linker());
        target.push(arch.rust());
    }
    // Statically linked to the C library, so that the image needs nothing else.
    shell::run(cargo.args(["--", "-C", "target-feature=+crt-static"]))?;
    let program = target.join("release/nodescope");
    check_static(&program)?;
    Ok(program)
}

/// The libraries of a program that is not static, its loader among them (ldd(1)).
fn libraries(program: &Path) -> anyhow::Result<Vec<String>> {
    let listing = shell::output("ldd", &[&program.to_string_lossy()]);
    let listing = listing.context("ldd cannot read the program")?;
    let path = |line: &str| {
        let mut words = line.split_whitespace();
        words.find(|word| word.starts_with('/')).map(str::to_owned)
    };
    Ok(listing.lines().filter_map(path).collect())
}

/// A program with an interpreter (`PT_INTERP`, elf(5)) would find none in the image.
fn check_static(program: &Path) -> anyhow::Result<()> {
    let listing = shell::output(
        "readelf",
        &["--program-headers", &program.to_string_lossy()],
    )
    .context("readelf cannot read the program")?;
    ensure!(
        !listing.contains("INTERP"),
        "{} is not statically linked",
        program.display()
    );
    Ok(())
}

/// What goes into an image.
struct Contents<'a> {
    /// Where its papers are, and room for what is made on the way.
    folder: &'a Path,
    program: &'a Path,
    /// What the program is linked to, at the same place in the image.
    libraries: &'a [String],
}

/// Leaves the archive, and gives the bytes of what is in it, unpacked and without libraries.
fn pack(
    root: &Path,
    contents: &Contents<'_>,
    arch: Arch,
    name: &str,
    archive: &Path,
) -> anyhow::Result<u64> {
    let Contents {
        folder,
        program,
        libraries,
    } = *contents;
    // A store of its own: the machine's images are left alone.
    let store = folder.join("store");
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new("buildah");
        command
            .args(["--storage-driver", "vfs"])
            .arg("--root")
            .arg(store.join("root"))
            .arg("--runroot")
            .arg(store.join("run"))
            .args(arguments);
        command
    };
    let made = buildah(&["from", "--arch", arch.name(), "scratch"]).output()?;
    if !made.status.success() {
        bail!("buildah: {}", String::from_utf8_lossy(&made.stderr).trim());
    }
    let container = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    let text = |path: &Path| path.to_string_lossy().into_owned();
    // Without what a debugger wants.
    let stripped = folder.join("nodescope");
    shell::run(Command::new("strip").arg("-o").arg(&stripped).arg(program))?;
    let copies = [
        (text(&stripped), PROGRAM.to_owned()),
        (
            text(&folder.join("sbom.cdx.json")),
            format!("{PAPERS}/sbom.cdx.json"),
        ),
        (text(&folder.join("LICENSES")), format!("{PAPERS}/LICENSES")),
    ];
    let libraries = libraries.iter().map(|path| (path.clone(), path.clone()));
    for (from, to) in copies.into_iter().chain(libraries) {
        shell::run(&mut buildah(&["copy", "--quiet", &container, &from, &to]))?;
    }
    let mut config = buildah(&["config", "--entrypoint"]);
    config.arg(format!("[\"{PROGRAM}\"]"));
    config.args(["--cmd", "agent", "--env", "PATH=/usr/local/bin"]);
    for (key, value) in labels(root) {
        config
            .arg("--label")
            .arg(format!("org.opencontainers.image.{key}={value}"));
    }
    shell::run(config.arg(&container))?;
    let _ = std::fs::remove_file(archive);
    let to = format!("oci-archive:{}:{name}", text(archive));
    let when = git(root, &["show", "--no-patch", "--format=%ct", "HEAD"]);
    let when = when.unwrap_or_else(|| "0".to_owned());
    // What goes nowhere need not be made small.
    let packed = if contents.libraries.is_empty() {
        "--disable-compression=false"
    } else {
        "--disable-compression=true"
    };
    let commit = [
        "commit",
        "--quiet",
        "--rm",
        packed,
        "--timestamp",
        &when,
        &container,
        &to,
    ];
    shell::run(&mut buildah(&commit))?;
    std::fs::remove_dir_all(&store).with_context(|| format!("removing {}", store.display()))?;
    let mut unpacked = 0;
    for entry in std::fs::read_dir(folder)? {
        unpacked += entry?.metadata()?.len();
    }
    Ok(unpacked)
}

/// Pre-defined annotation keys of OCI's image-spec.
fn labels(root: &Path) -> Vec<(&'static str, String)> {
    let mut labels = vec![
        ("title", "nodescope".to_owned()),
        (
            "description",
            "What a Kubernetes node does with packets".to_owned(),
        ),
        ("licenses", "Apache-2.0 OR MIT".to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    if let Some(revision) = git(root, &["rev-parse", "HEAD"]) {
        labels.push(("revision", revision));
    }
    labels
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let root = root.to_string_lossy();
    let arguments = [&["-C", &root], arguments].concat();
    shell::output("git", &arguments).map(|text| text.trim().to_owned())
}
