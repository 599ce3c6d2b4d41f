//! The loop between the kernel and the flows: attach, drain, join, report.

mod conntrack;
mod drops;
mod entries;
mod hooks;
mod outbox;
mod pressure;
mod run;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nodescope_ebpf::{HopKey, HopRecord, NatState};

use outbox::Outbox;
use pressure::Pressure;

use crate::datapath::{self, Cursor, Datapath};
use crate::flow::{Counts, Gain, Interfaces, Moment, Retransmits, Timeouts, Tracker};
use crate::node::InterfaceFilter;
use crate::node::conntrack::Conntrack;

pub use drops::DropStatus;
use entries::Entries;
pub use pressure::GivenUp;
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
    drain: DrainStatistics,
    /// Conntrack's events, until the loop takes them, and what they told; `None` where the
    /// packets' own entries are read.
    conntrack: Option<Conntrack>,
    entries: Option<Entries>,
    pressure: Pressure,
    outbox: Outbox,
    /// Room for what one look into the kernel's table gives.
    records: Vec<(HopKey, HopRecord)>,
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
            records: Vec::new(),
            datapath,
            settings,
            interfaces: Interfaces::new(),
            hooks: HashMap::new(),
            since: HashMap::new(),
            refused: HashMap::new(),
            drain: DrainStatistics::default(),
            conntrack: None,
            entries: None,
        })
    }

    /// The kernel side.
    pub fn datapath(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    /// Looks at single records, because the kernel side told of them.
    pub fn poke<'a>(&mut self, keys: impl IntoIterator<Item = &'a HopKey>) {
        let now = Moment::now();
        for key in keys {
            if self.overflows() {
                return;
            }
            if let Some(record) = self.datapath.hop(key) {
                self.observe(key, &record, now);
            }
        }
    }

    /// Looks at every record.
    pub fn drain(&mut self) {
        let start = std::time::Instant::now();
        let now = Moment::now();
        let mut entries = 0;
        let mut cursor = Cursor::default();
        let mut records = std::mem::take(&mut self.records);
        loop {
            match self.datapath.read(&mut cursor, &mut records) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.drain.failures += 1;
                    tracing::warn!(%error, "draining");
                    break;
                }
            }
            entries += records.len();
            for (key, record) in &records {
                // What has no place here stays where it is counted, or in no record once the
                // table is full.
                if self.tracker.is_news(key, record)
                    && (self.tracker.len() < self.pressure.most() || self.tracker.knows(key))
                {
                    self.observe(key, record, now);
                }
            }
        }
        self.records = records;
        self.resent();
        self.drain.entries = entries;
        self.drain.durations.push(start.elapsed());
        self.relieve(now);
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
            self.drain.failures += 1;
            tracing::warn!(%error, "reading retransmissions");
        }
    }

    fn observe(&mut self, key: &HopKey, record: &HopRecord, now: Moment) {
        let nat = match &self.entries {
            Some(entries) => entries.of(key).copied(),
            None => (NatState::of(record.nat) == NatState::Translated
                && self.tracker.needs_nat(key, record))
            .then(|| self.datapath.nat(key))
            .flatten(),
        };
        let extra = self
            .tracker
            .needs_extra(key, record)
            .then(|| self.datapath.extra(key))
            .flatten();
        let (gain, _) = self
            .tracker
            .observe(key, record, nat.as_ref(), now.monotonic_ns);
        if let Some(extra) = extra {
            self.tracker.describe(key, extra);
        }
        self.gain(key.ifindex, gain);
    }

    fn gain(&mut self, ifindex: u32, gain: Gain) {
        let (ingress, egress) = self.hooks.entry(ifindex).or_default();
        *ingress += gain.ingress;
        *egress += gain.egress;
    }

    /// Takes a record out of the kernel's table; its last packets are counted.
    fn retire(&mut self, key: &HopKey, now: Moment) {
        match self.datapath.take(key) {
            Ok(Some(record)) => {
                if self.tracker.is_news(key, &record) {
                    self.observe(key, &record, now);
                }
                if record.extra != 0 {
                    match self.datapath.take_extra(key) {
                        Ok(Some(extra)) => self.tracker.describe(key, extra),
                        // It found no room.
                        Ok(None) => {}
                        Err(error) => {
                            self.drain.failures += 1;
                            tracing::warn!(%error, "taking out what few records have");
                        }
                    }
                }
            }
            Ok(None) => {}
            Err(error) => {
                self.drain.failures += 1;
                tracing::warn!(%error, "taking a record out");
                return;
            }
        }
        self.tracker.taken(key);
    }
}
