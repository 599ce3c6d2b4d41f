//! The lab's command line: `nodescope-lab --help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nodescope_tests::lab::{self, demo, programs};
use nodescope_tests::{real, soak};

#[derive(Parser)]
#[command(
    name = "nodescope-lab",
    about = "Kubernetes clusters out of network namespaces"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster, agents and traffic, and show the flows live
    Run(demo::DemoOptions),
    /// Run a nodescope command against the lab that runs
    Cli {
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        args: Vec<String>,
    },
    /// Play traffic, churn and faults at random, look at what must hold, and draw what it costs
    Soak(soak::Options),
    /// Remove what labs left that were killed
    Clean,
    /// Hold a real control plane until standard input ends
    #[command(hide = true)]
    ControlPlane {
        #[arg(long)]
        name: String,
        /// The range of ClusterIPs
        #[arg(long)]
        services: ipnet::Ipv4Net,
    },
    /// Become a command, inside a namespace if one is named, and die with the parent
    #[command(hide = true)]
    ExecIn {
        #[arg(long)]
        netns: Option<String>,
        #[arg(long)]
        parent: u32,
        #[arg(last = true)]
        argv: Vec<String>,
    },
    #[command(flatten)]
    Program(programs::Program),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("nodescope-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(options) => demo::run(&options)?,
        Command::Cli { args } => {
            let code = demo::cli(&args)?.code().and_then(|c| u8::try_from(c).ok());
            return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
        }
        Command::Soak(options) => soak::run(&options)?,
        Command::Clean => {
            for name in lab::clean_stale()? {
                println!("removed lab {name}");
            }
        }
        Command::ControlPlane { name, services } => real::keep(&name, services)?,
        Command::ExecIn {
            netns,
            parent,
            argv,
        } => return Err(lab::exec_in(netns.as_deref(), parent, &argv)),
        Command::Program(program) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(programs::run(program))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
