//! Compiles what the agent carries inside: the kernel side as an eBPF object, and the protos.

#[path = "build/bpf.rs"]
mod bpf;
#[path = "build/protos.rs"]
mod protos;
#[path = "build/toolchain.rs"]
mod toolchain;

use std::process::ExitCode;

fn main() -> ExitCode {
    match generate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn generate() -> anyhow::Result<()> {
    protos::compile_protos()?;
    bpf::compile()?;
    Ok(())
}

/// The first line is the error cargo shows; what a compiler said goes with it. (Returned from
/// main instead, a missing toolchain would drown in a backtrace wherever RUST_BACKTRACE is set.)
fn report(error: &anyhow::Error) -> ExitCode {
    let message = format!("{error:#}");
    let (line, rest) = message.split_once('\n').unwrap_or((&message, ""));
    println!("cargo::error={line}");
    eprintln!("{rest}");
    ExitCode::FAILURE
}
