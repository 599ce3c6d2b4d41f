//! Compiles the `.proto` files without `protoc`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

const FILES: [&str; 11] = [
    "flow/filter.proto",
    "flow/flow.proto",
    "observer/observer.proto",
    "peer/peer.proto",
    "relay/relay.proto",
    "nodescope/v1/checks.proto",
    "nodescope/v1/drops.proto",
    "nodescope/v1/nat.proto",
    "nodescope/v1/node.proto",
    "nodescope/v1/probes.proto",
    "nodescope/v1/services.proto",
];

/// Writes the Rust types and services, and `descriptors.bin` (a `FileDescriptorSet`, from which
/// the JSON form is made) to `OUT_DIR`.
pub fn compile_protos() -> anyhow::Result<()> {
    let root = Path::new("proto");
    for file in FILES {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    // Nothing imports Struct, but it is what the `Any` of a flow's extensions holds.
    let files = FILES.into_iter().chain(["google/protobuf/struct.proto"]);
    let mut set = protox::compile(files, [root])?;
    tonic_prost_build::configure()
        .compile_fds(set.clone())
        .context("generating protobuf code")?;
    // Comments are wanted in the generated code, not in the binary.
    for file in &mut set.file {
        file.source_code_info = None;
    }
    let path = out.join("descriptors.bin");
    std::fs::write(&path, prost::Message::encode_to_vec(&set))
        .with_context(|| format!("writing {}", path.display()))
}
