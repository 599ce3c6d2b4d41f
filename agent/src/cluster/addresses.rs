//! Which pod had an address at which time.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::flow::Pod;

use super::shards::Shards;
use super::trim::PodRecord;

/// How long a pod that is gone is still named: the last records of its connections come late.
pub(super) const GRACE: Duration = Duration::from_secs(120);

/// A pod's time with an address.
#[derive(Clone, Debug)]
struct Holding {
    pod: Arc<Pod>,
    from: SystemTime,
    /// `None` while the pod has it.
    until: Option<SystemTime>,
}

impl Holding {
    fn covers(&self, at: SystemTime) -> bool {
        self.from <= at && self.until.is_none_or(|until| at <= until)
    }
}

/// Of those that have an address now, the last to get it.
fn newest(list: &[Holding]) -> Option<&Arc<Pod>> {
    let open = list.iter().filter(|holding| holding.until.is_none());
    open.max_by_key(|holding| holding.from)
        .map(|holding| &holding.pod)
}

/// Who had which address when.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Each list is sorted by `from`, and never empty.
    holders: Shards<IpAddr, Arc<[Holding]>>,
    /// Addresses of which somebody may have to be forgotten some day, and others.
    given_back: HashSet<IpAddr>,
}

impl Addresses {
    /// The same as of now, for those who only ask. Costs little: the lists are shared.
    pub(super) fn snapshot(&self) -> Self {
        Self {
            holders: self.holders.clone(),
            given_back: HashSet::new(),
        }
    }

    /// Takes in what the API says of a pod now. `listed`: it was there before the watch began,
    /// so that it has had its address since it started rather than since now.
    pub(super) fn apply(&mut self, record: &PodRecord, listed: bool, now: SystemTime) {
        if record.host_network {
            return;
        }
        // The clock of its node may be fast: whoever is told to have ended has.
        let until = record.finished.then(|| {
            record
                .ended
                .or(record.started)
                .map_or(now, |at| at.min(now))
        });
        if until.is_some_and(|until| until + GRACE < now) {
            return;
        }
        let since = if listed { SystemTime::UNIX_EPOCH } else { now };
        let from = record.started.unwrap_or(since).min(until.unwrap_or(now));
        for ip in &record.pod.ips {
            let list = self.holders.get(ip).map_or(&[][..], |list| list);
            let holding = |from| Holding {
                pod: record.pod.clone(),
                from,
                until,
            };
            let known = |known: &Holding| known.pod.uid == record.pod.uid;
            let list: Arc<[Holding]> = if list.iter().any(known) {
                let renewed = list.iter().map(|old| match known(old) {
                    true => Holding {
                        until: old.until.or(until),
                        ..holding(old.from)
                    },
                    false => old.clone(),
                });
                renewed.collect()
            } else {
                // Who had it gave it back by a clock that may have been set back since.
                let others = list.iter().map(|other| Holding {
                    until: other.until.map(|until| until.min(now)),
                    ..other.clone()
                });
                let others: Vec<Holding> = others.collect();
                // A pod can have been accepted by its node before the address was free.
                let freed = others.iter().filter_map(|other| other.until).max();
                let from = freed.map_or(from, |freed| from.max(freed));
                let at = others.partition_point(|other| other.from <= from);
                let (before, after) = others.split_at(at);
                [before, &[holding(from)][..], after].concat().into()
            };
            if until.is_some() {
                self.given_back.insert(*ip);
            }
            self.holders.insert(*ip, list);
        }
    }

    /// The pod left the API, or has other addresses: all but those `kept` are free from now on.
    pub(super) fn release(&mut self, pod: &Pod, kept: &[IpAddr], now: SystemTime) {
        for ip in pod.ips.iter().filter(|ip| !kept.contains(ip)) {
            let Some(list) = self.holders.get(ip) else {
                continue;
            };
            let released = list.iter().map(|holding| {
                let is_over = holding.pod.uid == pod.uid;
                Holding {
                    until: holding.until.or(is_over.then_some(now)),
                    ..holding.clone()
                }
            });
            let released = released.collect();
            self.holders.insert(*ip, released);
            self.given_back.insert(*ip);
        }
    }

    /// Forgets who gave an address back longer than [`GRACE`] ago; whether there was any.
    pub(super) fn expire(&mut self, now: SystemTime) -> bool {
        let over = |holding: &Holding| holding.until.is_some_and(|until| until + GRACE < now);
        let mut changed = false;
        let holders = &mut self.holders;
        self.given_back.retain(|ip| {
            let Some(list) = holders.get(ip) else {
                return false;
            };
            if list.iter().any(over) {
                changed = true;
                let left = list.iter().filter(|holding| !over(holding));
                let left: Arc<[Holding]> = left.cloned().collect();
                if left.is_empty() {
                    holders.remove(ip);
                    return false;
                }
                holders.insert(*ip, left);
            }
            let list = holders.get(ip);
            list.is_some_and(|list| list.iter().any(|holding| holding.until.is_some()))
        });
        changed
    }

    /// Addresses that pods have now.
    pub(super) fn in_use(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let open = |list: &[Holding]| list.iter().any(|holding| holding.until.is_none());
        let lists = self.holders.iter();
        lists.filter(move |(_, list)| open(list)).map(|(ip, _)| *ip)
    }

    /// Pods that have an address now, once for each address.
    pub(super) fn held(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.holders.values().filter_map(|list| newest(list))
    }

    /// The pod that has an address now.
    pub(super) fn held_at(&self, ip: IpAddr) -> Option<&Arc<Pod>> {
        self.holders.get(&ip).and_then(|list| newest(list))
    }

    /// The pod that had the address at that time: of those that did, the last to get it; in a
    /// gap, the next one (the API tells late of new addresses), else the last.
    pub(super) fn holder(&self, ip: IpAddr, at: SystemTime) -> Option<&Arc<Pod>> {
        let list = self.holders.get(&ip)?;
        let open_first = |holding: &&Holding| (holding.until.is_none(), holding.from);
        let covering = list
            .iter()
            .filter(|holding| holding.covers(at))
            .max_by_key(open_first);
        let next = || list.iter().find(|holding| holding.from > at);
        let last = || list.iter().max_by_key(|holding| holding.until);
        covering
            .or_else(next)
            .or_else(last)
            .map(|holding| &holding.pod)
    }
}
