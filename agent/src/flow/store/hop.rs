//! A hop: what is kept of a record of the kernel's table, and of those before it.

use nodescope_ebpf::{HopKey, HopRecord, extra::Extra};

use super::{At, Counts, NONE};

/// What one interface saw of one conversation, for one connection.
#[derive(Debug)]
pub(in crate::flow) struct Hop {
    /// Its conversation.
    pub(in crate::flow) of: At,
    /// Its connection.
    pub(in crate::flow) connection: At,
    /// The next hop of the connection.
    pub(in crate::flow) next: At,
    /// The next hop of the conversation that stands for a record of the kernel's table.
    pub(super) next_here: At,
    pub(in crate::flow) ifindex: u32,
    /// [`HopRecord::extra`] of the newest record.
    pub(in crate::flow) extra: u32,
    /// Counters of the newest record. The hop's own are these and `rare.ahead`.
    ab: Counts,
    ba: Counts,
    pub(in crate::flow) first_ns: u64,
    /// From a request to its answer; 0 for none.
    rtt_ns: u64,
    pub(in crate::flow) rare: Option<Box<RareHop>>,
    /// When the record changed last, see [`coarse`].
    pub(in crate::flow) changed: u32,
    pub(in crate::flow) incarnation: u8,
    ab_flags: u8,
    ba_flags: u8,
    ab_rst: u8,
    ba_rst: u8,
    pub(in crate::flow) nat: u8,
    pub(super) opener: u8,
    pub(in crate::flow) orientation: u8,
    pub(in crate::flow) protocol: u8,
    /// Whether a record in the kernel's table stands behind it.
    pub(in crate::flow) here: bool,
}

const _: () = assert!(size_of::<Hop>() <= 96);

/// What few hops have.
#[derive(Debug, Default)]
pub(in crate::flow) struct RareHop {
    /// By how much the hop's counts are ahead of its record's, modulo 2^64: earlier records of it
    /// were taken out, or the record was another connection's before.
    ahead: [Counts; 2],
    pub(in crate::flow) extra: Option<Extra>,
}

/// A time in units of 2^24 ns, 17 ms: the idlest are found by it, and it takes two years to wrap.
pub(in crate::flow) fn coarse(ns: u64) -> u32 {
    (ns >> 24) as u32
}

impl Hop {
    pub(super) fn new(of: At, connection: At, next: At, key: &HopKey) -> Self {
        Self {
            of,
            connection,
            next,
            next_here: NONE,
            ifindex: key.ifindex,
            extra: 0,
            ab: Counts::default(),
            ba: Counts::default(),
            first_ns: 0,
            rtt_ns: 0,
            rare: None,
            changed: 0,
            incarnation: 0,
            ab_flags: 0,
            ba_flags: 0,
            ab_rst: 0,
            ba_rst: 0,
            nat: 0,
            opener: 0,
            orientation: key.orientation,
            protocol: key.protocol,
            here: false,
        }
    }

    /// What it counted from the key's `a` to its `b`, and back, since the connection's start.
    pub(in crate::flow) fn counts(&self) -> [Counts; 2] {
        let ahead = self
            .rare
            .as_ref()
            .map(|rare| rare.ahead)
            .unwrap_or_default();
        let sum = |one: Counts, other: Counts| Counts {
            packets: one.packets.wrapping_add(other.packets),
            bytes: one.bytes.wrapping_add(other.bytes),
        };
        [sum(self.ab, ahead[0]), sum(self.ba, ahead[1])]
    }

    /// Takes in a newer record, and adds what it gained.
    pub(in crate::flow) fn add(&mut self, record: &HopRecord, gained: [Counts; 2]) {
        let mut counts = self.counts();
        counts[0] += gained[0];
        counts[1] += gained[1];
        (self.ab, self.ba) = (record.ab.into(), record.ba.into());
        let behind = |all: Counts, record: Counts| Counts {
            packets: all.packets.wrapping_sub(record.packets),
            bytes: all.bytes.wrapping_sub(record.bytes),
        };
        let ahead = [behind(counts[0], self.ab), behind(counts[1], self.ba)];
        if ahead != [Counts::default(); 2] || self.rare.is_some() {
            self.rare.get_or_insert_default().ahead = ahead;
        }
        self.first_ns = record.first_ns;
        self.rtt_ns = rtt(record);
        self.extra = record.extra;
        self.incarnation = record.incarnation;
        self.nat = record.nat;
        self.opener = record.opener;
        (self.ab_flags, self.ba_flags) = (record.ab_flags, record.ba_flags);
        (self.ab_rst, self.ba_rst) = (record.ab_rst, record.ba_rst);
    }

    /// Whether a record says something else.
    pub(in crate::flow) fn differs(&self, record: &HopRecord) -> bool {
        self.ab != Counts::from(record.ab)
            || self.ba != Counts::from(record.ba)
            || self.first_ns != record.first_ns
            || self.extra != record.extra
            || self.incarnation != record.incarnation
            || self.nat != record.nat
            || self.flags() != (record.ab_flags, record.ba_flags)
            || (self.ab_rst, self.ba_rst) != (record.ab_rst, record.ba_rst)
            || self.rtt_ns != rtt(record)
    }

    /// The flags of the key's `a`, and of its `b`.
    pub(in crate::flow) fn flags(&self) -> (u8, u8) {
        (self.ab_flags, self.ba_flags)
    }

    /// The newest record, as far as it is kept.
    pub(in crate::flow) fn record(&self) -> HopRecord {
        let answered = self.rtt_ns != 0;
        HopRecord {
            ab: self.ab.into(),
            ba: self.ba.into(),
            first_ns: self.first_ns,
            // Their distance is what is kept of these.
            request_ns: if answered { 1 } else { 0 },
            answer_ns: if answered { 1 + self.rtt_ns } else { 0 },
            ab_flags: self.ab_flags,
            ba_flags: self.ba_flags,
            opener: self.opener,
            nat: self.nat,
            incarnation: self.incarnation,
            ab_rst: self.ab_rst,
            ba_rst: self.ba_rst,
            extra: self.extra,
            ..HopRecord::default()
        }
    }

    /// Says what few hops have.
    pub(in crate::flow) fn describe(&mut self, extra: Extra) {
        self.rare.get_or_insert_default().extra = Some(extra);
    }

    pub(super) fn take_extra(&mut self) -> Option<Extra> {
        self.rare.as_mut()?.extra.take()
    }
}

fn rtt(record: &HopRecord) -> u64 {
    if record.request_ns == 0 {
        return 0;
    }
    record.answer_ns.saturating_sub(record.request_ns)
}
