//! `nodescope completion SHELL`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

/// Flags of `completion`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  source <(nodescope completion bash)
  nodescope completion zsh > \"${fpath[1]}/_nodescope\"
  nodescope completion fish > ~/.config/fish/completions/nodescope.fish")]
pub struct Args {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// When nobody reads the output.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut super::Cli::command(),
        "nodescope",
        &mut script,
    );
    std::io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_know_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            let mut commands = super::super::Cli::command();
            clap_complete::generate(shell, &mut commands, "nodescope", &mut script);
            let script = String::from_utf8_lossy(&script);
            for command in commands.get_subcommands() {
                let name = command.get_name();
                assert!(script.contains(name), "{shell}: no {name}");
            }
        }
    }
}
