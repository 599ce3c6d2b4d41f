//! Interface globs of the configuration.

use globset::{Glob, GlobMatcher};

use super::error::Error;
use super::view::NodeView;

/// The word in `--interfaces` that stands for whatever has a role by nature.
const AUTO: &str = "auto";

/// Which interfaces to look at. With nothing included, those that have a role by nature; with
/// globs, those that match one (and with `auto` among them, those with a role too). What is
/// excluded is excluded.
#[derive(Clone, Debug, Default)]
pub struct InterfaceFilter {
    include: Vec<GlobMatcher>,
    exclude: Vec<GlobMatcher>,
    auto: bool,
}

impl InterfaceFilter {
    /// Compiles shell globs (`*`, `?`, `[a-z]`, `{a,b}`).
    ///
    /// # Errors
    /// [`Error::Glob`] names the first that is not one.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, Error> {
        let globs: Vec<&String> = include.iter().filter(|pattern| *pattern != AUTO).collect();
        Ok(Self {
            auto: globs.len() != include.len() || include.is_empty(),
            include: globs
                .into_iter()
                .map(|glob| compile(glob))
                .collect::<Result<_, _>>()?,
            exclude: exclude
                .iter()
                .map(|glob| compile(glob))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether a glob names this interface, role or not.
    pub fn includes(&self, name: &str) -> bool {
        self.include.iter().any(|glob| glob.is_match(name)) && !self.excludes(name)
    }

    /// Whether the interface is kept when it has a role by nature.
    pub fn allows_natural(&self, name: &str) -> bool {
        (self.is_auto() || self.includes(name)) && !self.excludes(name)
    }

    /// The globs, as written, that match no interface of the node: most likely a typing error.
    pub fn unmatched(&self, view: &NodeView) -> Vec<String> {
        let missing = |glob: &&GlobMatcher| {
            !view
                .interfaces
                .values()
                .any(|interface| glob.is_match(&*interface.name))
        };
        let globs = self.include.iter().chain(&self.exclude);
        globs
            .filter(missing)
            .map(|glob| glob.glob().glob().to_owned())
            .collect()
    }

    fn excludes(&self, name: &str) -> bool {
        self.exclude.iter().any(|glob| glob.is_match(name))
    }

    fn is_auto(&self) -> bool {
        self.auto || self.include.is_empty()
    }
}

fn compile(pattern: &str) -> Result<GlobMatcher, Error> {
    let glob = Glob::new(pattern).map_err(|error| Error::Glob {
        pattern: pattern.to_owned(),
        reason: error.kind().to_string(),
    })?;
    Ok(glob.compile_matcher())
}
