//! `nodescope man FOLDER`: the manual pages, a file a command.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;

/// Flags of `man`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder to write them to; made if it is not there
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Writes the pages.
///
/// # Errors
/// When the folder cannot be written to.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = &args.folder;
    let failed = || {
        format!(
            "{} (give a folder that can be written to)",
            folder.display()
        )
    };
    std::fs::create_dir_all(folder).with_context(failed)?;
    clap_mangen::generate_to(super::Cli::command(), folder).with_context(failed)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_examples() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let args = Args {
            folder: folder.path().join("man1"),
        };
        run(&args)?;
        let commands = super::super::Cli::command();
        for command in commands.get_subcommands().filter(|one| !one.is_hide_set()) {
            let name = format!("nodescope-{}.1", command.get_name());
            let page = std::fs::read_to_string(args.folder.join(&name)).context(name.clone())?;
            assert!(page.contains("Examples:"), "{name}: {page}");
        }
        assert!(args.folder.join("nodescope.1").is_file());
        Ok(())
    }
}
