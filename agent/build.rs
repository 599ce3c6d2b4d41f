//! Build script: the protobuf code.

#[path = "build/protos.rs"]
mod protos;

fn main() -> anyhow::Result<()> {
    protos::compile_protos()
}
