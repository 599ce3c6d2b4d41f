//! A table in the input of `iptables-restore`.

use std::fmt::Write;

/// Chains and rules of one table.
#[derive(Default)]
pub(super) struct Table {
    chains: Vec<String>,
    rules: Vec<String>,
}

impl Table {
    /// Adds a chain, once.
    pub(super) fn chain(&mut self, name: &str) {
        if !self.chains.iter().any(|chain| chain == name) {
            self.chains.push(name.to_owned());
        }
    }

    /// Appends a rule, its chain first.
    pub(super) fn rule(&mut self, rule: impl Into<String>) {
        self.rules.push(format!("-A {}", rule.into()));
    }

    /// The table, with more lines of the same form at its end.
    pub(super) fn render(&self, name: &str, more: &[String]) -> String {
        let mut text = format!("*{name}\n");
        for chain in &self.chains {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for rule in self.rules.iter().chain(more) {
            let _ = writeln!(text, "{rule}");
        }
        text.push_str("COMMIT\n");
        text
    }
}
