//! Which pod had an address at which time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::flow::Pod;

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

/// Who had which address when. Cheap to clone: the lists are shared.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    /// Each list is sorted by `from`.
    holders: HashMap<IpAddr, Arc<Vec<Holding>>>,
}

impl Addresses {
    /// Takes in what the API says of a pod now. `listed`: it was there before the watch began,
    /// so that it has had its address since it started rather than since now.
    pub(super) fn apply(&mut self, record: &PodRecord, listed: bool, now: SystemTime) {
        if record.host_network {
            return;
        }
        let until = record
            .finished
            .then(|| record.ended.or(record.started).unwrap_or(now));
        if until.is_some_and(|until| until + GRACE < now) {
            return;
        }
        let since = if listed { SystemTime::UNIX_EPOCH } else { now };
        let from = record.started.unwrap_or(since).min(until.unwrap_or(now));
        for ip in &record.pod.ips {
            let list = Arc::make_mut(self.holders.entry(*ip).or_default());
            if let Some(known) = list
                .iter_mut()
                .find(|known| known.pod.uid == record.pod.uid)
            {
                known.pod = record.pod.clone();
                known.until = known.until.or(until);
                continue;
            }
            // A pod can have been accepted by its node before the address was free.
            let freed = list.iter().filter_map(|other| other.until).max();
            let from = freed.map_or(from, |freed| from.max(freed));
            let at = list.partition_point(|other| other.from <= from);
            list.insert(
                at,
                Holding {
                    pod: record.pod.clone(),
                    from,
                    until,
                },
            );
        }
    }

    /// The pod left the API, or has other addresses: all but those `kept` are free from now on.
    pub(super) fn release(&mut self, pod: &Pod, kept: &[IpAddr], now: SystemTime) {
        for ip in pod.ips.iter().filter(|ip| !kept.contains(ip)) {
            let Some(list) = self.holders.get_mut(ip) else {
                continue;
            };
            for holding in Arc::make_mut(list) {
                if holding.pod.uid == pod.uid {
                    holding.until = holding.until.or(Some(now));
                }
            }
        }
    }

    /// Forgets who gave an address back longer than [`GRACE`] ago; whether there was any.
    pub(super) fn expire(&mut self, now: SystemTime) -> bool {
        let over = |holding: &Holding| holding.until.is_some_and(|until| until + GRACE < now);
        let mut changed = false;
        self.holders.retain(|_, list| {
            if list.iter().any(over) {
                changed = true;
                Arc::make_mut(list).retain(|holding| !over(holding));
            }
            !list.is_empty()
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
        self.holders.values().filter_map(|list| {
            let open = list.iter().filter(|holding| holding.until.is_none());
            open.max_by_key(|holding| holding.from)
                .map(|holding| &holding.pod)
        })
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
