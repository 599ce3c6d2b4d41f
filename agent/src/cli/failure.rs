//! How the commands say what went wrong.

use std::io::{ErrorKind, Write as _};

/// Prints one line to standard error: what is at fault, why, and the mend.
pub fn tell(problem: &impl std::fmt::Display) {
    // With standard error closed there is nobody left to tell.
    let _ = writeln!(
        std::io::stderr(),
        "nodescope: {}",
        one_line(&problem.to_string())
    );
}

/// Whether the reader of our output left, as `| head` does; that is no failure.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == ErrorKind::BrokenPipe)
    })
}

fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}
