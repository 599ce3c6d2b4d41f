//! The programs of the control plane.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The variable that names their folder, as controller tests everywhere have it.
pub const ENV_ASSETS: &str = "KUBEBUILDER_ASSETS";

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Assets {
    /// etcd: in the folder, or on the PATH.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub apiserver: PathBuf,
    /// kube-controller-manager.
    pub controller_manager: PathBuf,
    /// kube-proxy.
    pub proxy: PathBuf,
}

impl Assets {
    /// The programs that the environment names; none when it names none.
    ///
    /// # Errors
    /// The folder lacks a program.
    pub fn find() -> Result<Option<Self>> {
        match std::env::var_os(ENV_ASSETS) {
            Some(folder) if !folder.is_empty() => Self::in_folder(Path::new(&folder)).map(Some),
            _ => Ok(None),
        }
    }

    /// As [`Assets::find`], for a caller that cannot do without.
    ///
    /// # Errors
    /// The variable is not set, or the folder lacks a program.
    pub fn required() -> Result<Self> {
        let Some(assets) = Self::find()? else {
            bail!(
                "a real control plane needs kube-apiserver, kube-controller-manager and \
                 kube-proxy: set {ENV_ASSETS} to their folder"
            );
        };
        Ok(assets)
    }

    fn in_folder(folder: &Path) -> Result<Self> {
        let program = |name: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            if !path.is_file() {
                bail!(
                    "{ENV_ASSETS}={}: there is no {name} in it",
                    folder.display()
                );
            }
            Ok(path)
        };
        Ok(Self {
            etcd: program("etcd").or_else(|error| on_path("etcd").ok_or(error))?,
            apiserver: program("kube-apiserver")?,
            controller_manager: program("kube-controller-manager")?,
            proxy: program("kube-proxy")?,
        })
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_the_programs_is_named() -> Result<()> {
        let empty = tempfile::tempdir()?;
        let Err(error) = Assets::in_folder(empty.path()) else {
            panic!("an empty folder has no programs");
        };
        let text = error.to_string();
        assert!(text.contains(&empty.path().display().to_string()), "{text}");
        Ok(())
    }
}
