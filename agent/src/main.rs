//! The `nodescope` binary.

use std::process::ExitCode;

use clap::Parser as _;
use nodescope::cli::{Cli, is_closed_pipe, tell};

/// The C library's allocator keeps what the start of the agent needed, as long as it runs; this one
/// gives it back, and is the same with every C library.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
