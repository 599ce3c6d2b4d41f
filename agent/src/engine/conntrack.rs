//! Translations by conntrack's own events, where the packets' entries cannot be read.

use super::Engine;
use super::entries::Entries;
use crate::flow::{Moment, News};
use crate::node::conntrack::{Change, Conntrack};

impl Engine {
    /// Takes translations from conntrack's events from now on, not from packets.
    pub fn follow(&mut self, conntrack: Conntrack) {
        // Untranslated and closing connections have entries too.
        let limit = usize::try_from(self.settings.datapath.max_connections)
            .unwrap_or(usize::MAX)
            .saturating_mul(2);
        self.entries = Some(Entries::new(limit));
        self.conntrack = Some(conntrack);
    }

    /// Takes changes of the conntrack table in. Hops that were seen before their entry came are
    /// looked at again.
    pub(super) fn learn(&mut self, changes: &[Change]) {
        let now = Moment::now();
        let Some(entries) = &mut self.entries else {
            return;
        };
        let tracker = &self.tracker;
        let mut again: Vec<_> = changes
            .iter()
            .flat_map(|change| entries.apply(change, now.monotonic_ns))
            .flat_map(|conversation| tracker.hops_of(&conversation))
            .collect();
        again.dedup();
        for key in again {
            if let Some(record) = self.datapath.hop(&key) {
                // What the record itself says may be known.
                let news = News {
                    record: false,
                    nat: true,
                    extra: record.extra != 0,
                };
                let nat = self.entry(&key, &record, news);
                self.observe(&key, &record, news, nat.as_ref(), now);
            }
        }
    }
}

/// The next changes; waits for ever where conntrack is not followed.
pub(super) async fn next(conntrack: &mut Option<Conntrack>) -> Vec<Change> {
    if let Some(followed) = conntrack {
        match followed.next().await {
            Some(changes) => return changes,
            None => {
                tracing::error!("conntrack's events ended: new translations are not known");
                *conntrack = None;
            }
        }
    }
    std::future::pending().await
}
