//! The `nodescope` binary.

use std::process::ExitCode;

use clap::Parser as _;
use nodescope::cli::{Cli, is_closed_pipe, tell};

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
