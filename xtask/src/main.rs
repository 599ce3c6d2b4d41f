//! What a developer of nodescope runs: set-up, lab, tests, lint.

mod bench;
mod fuzz;
mod image;
mod kernels;
mod lab;
mod lint;
mod setup;
mod shell;
mod soak;
mod test;
// build.rs of the agent compiles with this; here it says whether anything is missing for that.
#[path = "../../agent/build/toolchain.rs"]
mod toolchain;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set-up, lab and tests of nodescope
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing need (Debian or Ubuntu, as root)
    Setup,
    /// Build the agent, with the eBPF object inside, and the lab
    Build,
    /// Start a two-node cluster of network namespaces and show its traffic, or run a nodescope
    /// command against it
    #[command(
        override_usage = "cargo xtask lab [--for TIME] [OPTIONS OF THE LAB]\n       \
                                cargo xtask lab -- COMMAND [ARGUMENTS]"
    )]
    Lab {
        /// Options of the lab such as `--for 30s`, or `--` and a nodescope command
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "ARGUMENT"
        )]
        arguments: Vec<OsString>,
    },
    /// Run the unit tests and the end-to-end tests (as root)
    Test {
        /// Run only tests whose name contains this; what follows `--` goes to the test program
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "FILTER"
        )]
        arguments: Vec<OsString>,
    },
    /// Measure what nodescope costs, and print one table (as root)
    #[command(
        override_usage = "cargo xtask bench [--only NAME] [--cluster] [--rounds N] [--out FILE]"
    )]
    Bench {
        /// Options of the benchmarks; `cargo xtask bench -- --help` shows them
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "ARGUMENT"
        )]
        arguments: Vec<OsString>,
    },
    /// Play traffic, churn and faults at random for minutes, and look at what must hold (as root)
    #[command(override_usage = "cargo xtask soak [--minutes N] [--seed S] [--out FOLDER]")]
    Soak {
        /// Options of the soak; `cargo xtask soak -- --help` shows them
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "ARGUMENT"
        )]
        arguments: Vec<OsString>,
    },
    /// Run the datapath's tests on other kernels, each booted in a virtual machine
    Kernels {
        /// A series such as 6.1, or `newest`; without it all that the README tells of
        #[arg(long = "kernel", value_name = "VERSION")]
        kernels: Vec<String>,
        /// Write the table of what works where into the README
        #[arg(long)]
        write: bool,
    },
    /// Compare the parsers and the programs on frames made at random, for a time
    Fuzz {
        /// How long, in seconds; the round at hand is finished
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Build the agent as a container image: an OCI archive with one static program
    Image(image::Options),
    /// Check format and lints of both sides
    Lint,
}

fn main() -> ExitCode {
    let outcome = match Xtask::parse().task {
        Task::Setup => setup::run(),
        Task::Build => workspace::build().map(drop),
        Task::Lab { .. } => lab::run(&verbatim("lab")),
        Task::Test { .. } => test::run(&verbatim("test")),
        Task::Bench { .. } => bench::run(&verbatim("bench")),
        Task::Soak { .. } => soak::run(&verbatim("soak")),
        Task::Kernels { kernels, write } => kernels::run(&kernels, write),
        Task::Fuzz { seconds } => fuzz::run(std::time::Duration::from_secs(seconds)),
        Task::Image(options) => image::run(&options),
        Task::Lint => lint::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What follows the task's name on the command line, a leading `--` too, which clap takes away.
fn verbatim(task: &str) -> Vec<OsString> {
    std::env::args_os()
        .skip_while(|argument| argument != task)
        .skip(1)
        .collect()
}
