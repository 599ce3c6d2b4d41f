//! The loop between the kernel and the flows: attach, drain, join, report.

mod conntrack;
mod drops;
mod entries;
mod hooks;
mod outbox;
mod pressure;
mod reading;
mod resume;
mod run;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nodescope_ebpf::extra::Extra;
use nodescope_ebpf::{HopKey, HopRecord, NatRecord, NatState};

use outbox::Outbox;
use pressure::Pressure;

use crate::datapath::{self, Datapath};
use crate::flow::{
    Already, Counts, Gain, Interfaces, Moment, News, Place, Retransmits, Timeouts, Tracker,
};
use crate::node::InterfaceFilter;
use crate::node::conntrack::Conntrack;

pub use drops::DropStatus;
use entries::Entries;
pub use pressure::GivenUp;
pub use resume::Settle;
pub use run::{Intervals, Outlet, run};
pub use status::{HookStatus, InterfaceStatus, Status};

/// What the engine is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name, as records carry it.
    pub node: Arc<str>,
    /// What to load into the kernel.
    pub datapath: datapath::Settings,
    /// Which interfaces to attach to.
    pub filter: InterfaceFilter,
    /// When connections count as idle.
    pub timeouts: Timeouts,
}

/// A connection waits so long for its first record: its first packet has then passed every hop
/// of the node and met its translation.
const SETTLE: Duration = Duration::from_millis(15);

/// The kernel side and what is made of it.
pub struct Engine {
    settings: Settings,
    datapath: Datapath,
    tracker: Tracker,
    retransmits: Retransmits,
    interfaces: Interfaces,
    /// Attributed packets and bytes by interface: ingress, egress.
    hooks: HashMap<u32, (Counts, Counts)>,
    /// Which interface it is that has hooks, by its index: [`crate::node::Interface::since`].
    since: HashMap<u32, u64>,
    /// Interfaces that could not be attached, and why.
    refused: HashMap<u32, String>,
    /// Whether all interfaces that were there at the start have had their turn.
    settled: bool,
    drain: DrainStatistics,
    /// Conntrack's events, until the loop takes them, and what they told; `None` where the
    /// packets' own entries are read.
    conntrack: Option<Conntrack>,
    entries: Option<Entries>,
    pressure: Pressure,
    outbox: Outbox,
    notes: resume::Notes,
    reading: reading::Reading,
}

/// How draining went.
#[derive(Clone, Debug, Default)]
pub struct DrainStatistics {
    /// Duration of each drain since the last look.
    pub durations: Vec<Duration>,
    /// Records in the kernel's table at the last drain.
    pub entries: usize,
    /// Look-ups that the kernel refused.
    pub failures: u64,
}

impl DrainStatistics {
    fn failed(&mut self, what: &str, error: &datapath::Error) {
        self.failures += 1;
        tracing::warn!(%error, "{what}");
    }
}

impl Engine {
    /// Loads the kernel side; nothing is attached yet.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn load(settings: Settings) -> Result<Self, datapath::Error> {
        let datapath = Datapath::load(&settings.datapath)?;
        // Ids begin at the second of the start, so that two runs do not share any.
        let seconds = Moment::now()
            .wall
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Ok(Self {
            tracker: Tracker::new(seconds << 24),
            retransmits: Retransmits::default(),
            pressure: Pressure::new(datapath.capacity(), settings.datapath.max_connections),
            outbox: Outbox::default(),
            notes: resume::Notes::new(datapath.ledger()),
            reading: reading::Reading::default(),
            datapath,
            settings,
            interfaces: Interfaces::new(),
            hooks: HashMap::new(),
            since: HashMap::new(),
            refused: HashMap::new(),
            settled: false,
            drain: DrainStatistics::default(),
            conntrack: None,
            entries: None,
        })
    }

    /// The kernel side.
    pub fn datapath(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    /// Looks at what sockets sent again, after the records of their connections.
    fn resent(&mut self) {
        let result = self.datapath.retransmits().and_then(|all| {
            for socket in self.retransmits.observe(&all, &mut self.tracker) {
                let last = self.datapath.take_retransmits(&socket)?;
                self.retransmits
                    .taken(&socket, last.unwrap_or_default(), &mut self.tracker);
            }
            Ok(())
        });
        if let Err(error) = result {
            self.drain.failed("reading retransmissions", &error);
        }
    }

    /// Takes in a record of the kernel's table where there may be `most` connections; false when it
    /// has no place here and stays where it is counted, or in no record once the table is full.
    fn meet(
        &mut self,
        key: &HopKey,
        record: &HopRecord,
        news: News,
        most: usize,
        now: Moment,
    ) -> bool {
        let nat = self.entry(key, record, news);
        let place = match news.record {
            true => self.tracker.place_of(key, record, nat.as_ref(), most),
            false => Place::Here,
        };
        match place {
            Place::Here => self.observe(key, record, news, nat.as_ref(), now),
            Place::Told(already) => self.rest(key, &already, nat.as_ref(), now),
            Place::NoRoom => return false,
        }
        true
    }

    /// The conntrack entry of a record, where one is yet to be read.
    fn entry(&self, key: &HopKey, record: &HopRecord, news: News) -> Option<NatRecord> {
        match &self.entries {
            Some(entries) => entries.of(key).copied(),
            None => (news.nat && NatState::of(record.nat) == NatState::Translated)
                .then(|| self.datapath.nat(key))
                .flatten(),
        }
    }

    fn observe(
        &mut self,
        key: &HopKey,
        record: &HopRecord,
        news: News,
        nat: Option<&NatRecord>,
        now: Moment,
    ) {
        let extra = news.extra.then(|| self.datapath.extra(key)).flatten();
        let (gain, _) = self.tracker.observe(key, record, nat, now.monotonic_ns);
        if let Some(extra) = extra {
            self.tracker.describe(key, extra);
        }
        self.gain(key.ifindex, gain);
        self.part();
    }

    /// Takes out a record of a connection that has had its last record.
    fn rest(&mut self, key: &HopKey, already: &Already, nat: Option<&NatRecord>, now: Moment) {
        match self.datapath.take(key) {
            Ok(Some(record)) => {
                let extra = self.take_extra(key, &record);
                let now_ns = now.monotonic_ns;
                let tracker = &mut self.tracker;
                let gain = tracker.observe_rest(key, &record, already, nat, extra, now_ns);
                self.gain(key.ifindex, gain);
                self.was_taken(key, record.ab, record.ba);
            }
            Ok(None) => {}
            Err(error) => self.drain.failed("taking a record out", &error),
        }
    }

    /// What a record has that few have, taken out after it.
    fn take_extra(&mut self, key: &HopKey, record: &HopRecord) -> Option<Extra> {
        if record.extra == 0 {
            return None;
        }
        let taken = self.datapath.take_extra(key).unwrap_or_else(|error| {
            let what = "taking out what few records have";
            self.drain.failed(what, &error);
            None
        });
        // Or it found no room.
        taken
    }

    fn gain(&mut self, ifindex: u32, gain: Gain) {
        let (ingress, egress) = self.hooks.entry(ifindex).or_default();
        *ingress += gain.ingress;
        *egress += gain.egress;
    }

    /// Takes records out of the kernel's table; their last packets are counted.
    fn retire(&mut self, keys: &[HopKey], now: Moment) {
        self.keep(keys);
        for key in keys {
            self.retire_one(key, now);
        }
        self.save();
    }

    fn retire_one(&mut self, key: &HopKey, now: Moment) {
        match self.datapath.take(key) {
            Ok(Some(record)) => {
                if let Some(news) = self.tracker.news(key, &record) {
                    let nat = self.entry(key, &record, news);
                    self.observe(key, &record, news, nat.as_ref(), now);
                    self.keep(std::slice::from_ref(key));
                }
                self.was_taken(key, record.ab, record.ba);
                if let Some(extra) = self.take_extra(key, &record) {
                    self.tracker.describe(key, extra);
                }
            }
            Ok(None) => {}
            Err(error) => {
                self.drain.failed("taking a record out", &error);
                return;
            }
        }
        self.tracker.taken(key);
    }
}
