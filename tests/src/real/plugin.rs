//! The network plugin's own masquerade rules, beside those of a kube-proxy that writes its own.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use crate::lab::Netns;

/// The rules of the nat table that the plugin has written, the same on every node.
#[derive(Debug, Default)]
pub(crate) struct PluginRules {
    written: Mutex<Vec<String>>,
}

impl PluginRules {
    /// Writes `rules` on every node in place of those written before, each change at once.
    pub(crate) fn write(&self, nodes: &[Netns], rules: &[String]) -> Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.as_slice() == rules {
            return Ok(());
        }
        let text = exchange(&written, rules);
        for node in nodes {
            node.tool(&["iptables-restore", "--noflush"], &text)?;
        }
        written.clear();
        written.extend_from_slice(rules);
        Ok(())
    }
}

/// Input of `iptables-restore` that takes `old` away and adds `new`.
fn exchange(old: &[String], new: &[String]) -> String {
    let taken = old.iter().filter_map(|rule| rule.strip_prefix("-A "));
    let mut lines: Vec<String> = taken.map(|rule| format!("-D {rule}")).collect();
    let chains = old.iter().filter_map(|rule| rule.strip_prefix("-N "));
    lines.extend(chains.map(|chain| format!("-X {chain}")));
    lines.extend_from_slice(new);
    format!("*nat\n{}\nCOMMIT\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_rules_go_before_new_ones_come() {
        let old = ["-N X".to_owned(), "-A POSTROUTING -j X".to_owned()];
        assert_eq!(
            exchange(&old, &["-A POSTROUTING -j MASQUERADE".to_owned()]),
            "*nat\n-D POSTROUTING -j X\n-X X\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n"
        );
    }
}
