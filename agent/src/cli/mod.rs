//! The commands, a file each.

mod agent;
mod agents;
pub mod check;
mod check_agents;
mod check_route;
mod completion;
mod detach;
mod drops;
mod ends;
mod failure;
mod filters;
mod fit;
mod flow_log;
mod input;
mod live;
mod man;
mod nat;
mod nat_rows;
mod nat_source;
mod node;
mod node_pods;
mod notes;
mod observe;
mod outlets;
mod output;
mod page;
mod path;
mod path_end;
mod path_join;
mod path_leg;
mod path_lost;
mod path_show;
mod probes;
mod probing;
mod row;
mod servers;
mod services;
mod services_show;
mod serving;
#[cfg(test)]
mod snapshot;
mod time;
mod tls;
mod top;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use failure::{is_closed_pipe, tell};

/// See what a Kubernetes node does with packets.
#[derive(Debug, Parser)]
#[command(name = "nodescope", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this node
    Agent(Box<crate::config::AgentArgs>),
    /// Say what is as it should be and what is not
    Check(check::Args),
    /// Show flows: the last ones, live ones, or those of a flow log
    Observe(Box<observe::Args>),
    /// Follow one connection hop by hop, the legs of several nodes joined
    Path(Box<path::Args>),
    /// Show what services promise their clients, and what these got
    Services(services::Args),
    /// Show the node behind an agent: network model, interfaces, pods on them, attach state
    Node(node::Args),
    /// Show translations in force, their cause and what the configuration says; source ports in use
    Nat(Box<nat::Args>),
    /// Show packets that the kernel dropped: between whom, why and where
    Drops(Box<drops::Args>),
    /// Show health probes: who asks whom how often, what the answer is, and when that changed
    Probes(probes::Args),
    /// Show what happens now, on the whole screen
    Top(Box<top::Args>),
    /// Print the completion script of a shell
    Completion(completion::Args),
    /// Write the manual pages
    #[command(hide = true)]
    Man(man::Args),
}

/// The name under which kubectl takes this program for its command `nodescope`.
const PLUGIN: &str = "kubectl-nodescope";

/// Reads the command line; what is wrong with it, or help that was asked for, ends the process.
pub fn parse() -> Cli {
    let called = std::env::args_os().next();
    let matches = command(called.as_deref()).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The commands, as whoever called the program names them: kubectl's plugin is
/// `kubectl nodescope`.
fn command(called: Option<&OsStr>) -> clap::Command {
    let command = Cli::command();
    if called.and_then(|called| Path::new(called).file_stem()) != Some(OsStr::new(PLUGIN)) {
        return command;
    }
    let names: Vec<String> = command
        .get_subcommands()
        .map(|one| one.get_name().to_owned())
        .collect();
    let plugin = command.bin_name("kubectl nodescope");
    names.into_iter().fold(plugin, |command, name| {
        command.mut_subcommand(name, |one| match one.get_after_help() {
            None => one,
            Some(help) => {
                let help = help.to_string();
                one.after_help(help.replace("  nodescope ", "  kubectl nodescope "))
            }
        })
    })
}

impl Command {
    /// Does it; the exit code is 0, or 1 when something was found wanting.
    ///
    /// # Errors
    /// When it cannot be done; the text names the thing at fault and the mend.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Agent(args) => agent::run(*args),
            Self::Check(args) => check::run(&args),
            Self::Observe(args) => block_on(observe::run(*args)),
            Self::Path(args) => block_on(path::run(*args)),
            Self::Services(args) => block_on(services::run(args)),
            Self::Node(args) => block_on(node::run(args)),
            Self::Nat(args) => block_on(nat::run(*args)),
            Self::Drops(args) => block_on(drops::run(*args)),
            Self::Probes(args) => block_on(probes::run(args)),
            Self::Top(args) => block_on(top::run(*args)),
            Self::Completion(args) => completion::run(&args),
            Self::Man(args) => man::run(&args),
        }
    }
}

/// One thread is enough to print what others send.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_commands_are_sound() {
        super::Cli::command().debug_assert();
    }
}
