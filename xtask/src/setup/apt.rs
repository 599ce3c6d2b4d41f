//! What apt knows.

use crate::shell;

/// Whether this machine installs with apt.
pub fn is_here() -> bool {
    shell::which("apt-get").is_some()
}

/// The version of a package that apt would install.
pub fn candidate(package: &str) -> Option<String> {
    let policy = shell::output("apt-cache", &["policy", package])?;
    let line = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate:"))?;
    Some(line.trim())
        .filter(|version| *version != "(none)")
        .map(str::to_owned)
}

/// The LLVM, as its major version, that a package links to.
pub fn llvm_of(package: &str) -> Option<u32> {
    let depends = shell::output("apt-cache", &["depends", package])?;
    depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: libllvm")?.parse().ok())
}
