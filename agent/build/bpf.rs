//! Compiles agent-ebpf and leaves the objects as `$OUT_DIR/nodescope-ebpf.o`, and `careful.o` for an
//! agent without CAP_PERFMON, where the datapath room embeds them from.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

use crate::toolchain::{Toolchain, target_args};

/// Package and binary name of the kernel side.
const NAME: &str = "nodescope-ebpf";

/// Objects and the features that make them.
const OBJECTS: [(&str, &str); 2] = [("nodescope-ebpf.o", "bpf"), ("careful.o", "careful")];

/// Compiles the object and tells cargo when to do so again.
pub fn compile() -> anyhow::Result<()> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = manifest_dir
        .parent()
        .context("the agent's crate is not inside a workspace")?;
    let source = root.join("agent-ebpf");
    for input in [&source, &root.join("Cargo.toml"), &root.join("Cargo.lock")] {
        rerun_if_changed(input);
    }
    rerun_if_changed(&manifest_dir.join("build.rs"));
    rerun_if_changed(&manifest_dir.join("build"));

    let toolchain = Toolchain::find()?;
    rerun_if_changed(&toolchain.linker);
    rerun_if_changed(&toolchain.prefix.join("bin/rustc"));

    let out = PathBuf::from(variable("OUT_DIR")?);
    let endian = variable("CARGO_CFG_TARGET_ENDIAN")?;
    let target = target_args(&endian);
    // A target directory of its own: cargo holds the lock of the outer one while we run.
    let target_dir = out.join("bpf");
    for (object, features) in OBJECTS {
        let output = toolchain
            .cargo(&variable("CARGO_CFG_TARGET_ARCH")?)
            .args(["build", "--release", "--locked"])
            .args(["--package", NAME, "--bin", NAME, "--features", features])
            .args(target)
            .arg("--manifest-path")
            .arg(source.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&target_dir)
            .output()
            .with_context(|| format!("cannot run cargo of {}", toolchain.prefix.display()))?;
        if !output.status.success() {
            bail!(
                "agent-ebpf does not compile with the Rust in {} and {}:\n{}",
                toolchain.prefix.display(),
                toolchain.linker.display(),
                String::from_utf8_lossy(&output.stderr),
            );
        }
        let built = target_dir.join(target[1]).join("release").join(NAME);
        let whole =
            std::fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
        let lean = without_dwarf(&whole)
            .with_context(|| format!("{} cannot be made leaner", built.display()))?;
        let copy = out.join(object);
        std::fs::write(&copy, lean).with_context(|| format!("cannot write {}", copy.display()))?;
    }
    Ok(())
}

/// The object without its DWARF, four fifths of it: the kernel takes BTF, which was made from it.
fn without_dwarf(object: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        let of = name.strip_prefix(b".rel").unwrap_or(name);
        section.delete = of.starts_with(b".debug_");
    }
    // LLVM keeps the names of sections among those of symbols; the writer wants them apart.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    builder.delete_orphans();
    let mut lean = Vec::new();
    builder.write(&mut lean)?;
    Ok(lean)
}

fn rerun_if_changed(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

fn variable(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("cargo did not set {name}"))
}
