//! The `nodescope` binary.

use std::process::ExitCode;

use nodescope::cli::{is_closed_pipe, parse, tell};

fn main() -> ExitCode {
    match parse().command.run() {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
