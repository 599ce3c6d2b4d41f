//! What is to be said of connections, in order, as fast as it is taken and no faster.
//!
//! Only ids wait here: a record is made when there is room for it, from what the connection is by
//! then. So a slow disk costs memory for connections only, of which there is a limit.

use std::collections::{HashSet, VecDeque};

use nodescope_ebpf::HopKey;

use super::{Engine, SETTLE};
use crate::flow::{self, Event, Flow, Moment};

/// With so many waiting, a connection that ends before its first record has one record only.
const LONG: usize = 4096;

/// Connections of which something is to be said.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<(u64, Event)>,
    /// Updates among them.
    updates: usize,
    closing: HashSet<u64>,
}

impl Outbox {
    fn open(&mut self, ids: Vec<u64>) {
        self.waiting
            .extend(ids.into_iter().map(|id| (id, Event::Open)));
    }

    fn update(&mut self, ids: Vec<u64>) {
        self.updates += ids.len();
        self.waiting
            .extend(ids.into_iter().map(|id| (id, Event::Update)));
    }

    fn close(&mut self, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            if self.closing.insert(id) {
                self.waiting.push_back((id, Event::Close));
            }
        }
    }

    fn next(&mut self) -> Option<(u64, Event)> {
        let (id, event) = self.waiting.pop_front()?;
        match event {
            Event::Update => self.updates -= 1,
            Event::Close => {
                self.closing.remove(&id);
                if self.closing.is_empty() {
                    self.closing.shrink_to(LONG);
                }
            }
            Event::Open | Event::Drop => {}
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to(LONG);
        }
        Some((id, event))
    }
}

impl Engine {
    /// Whether something is to be said.
    pub(super) fn has_news(&self) -> bool {
        !self.outbox.waiting.is_empty()
    }

    /// Whether some connection waits for its first record.
    pub(super) fn waits_to_open(&self) -> bool {
        self.tracker.waits_to_open()
    }

    /// First records of connections whose first packet has had the time to pass the node.
    pub(super) fn opened(&mut self) {
        let now = Moment::now().monotonic_ns;
        let settled = now.saturating_sub(SETTLE.as_nanos() as u64);
        self.outbox.open(self.tracker.ready_to_open(settled));
    }

    /// Records of connections with something new since their last record.
    pub(super) fn updates(&mut self) {
        // What changes while updates wait will be in them.
        if self.outbox.updates == 0 {
            self.outbox.update(self.tracker.dirty());
        }
    }

    /// What is left to say at the end of the run.
    pub(super) fn last(&mut self) {
        self.outbox.open(self.tracker.ready_to_open(u64::MAX));
        self.outbox.update(self.tracker.dirty());
    }

    /// Last records of connections that are over, idle, or more than are kept; looked for in all of
    /// them, so once in a while.
    pub(super) fn closed(&mut self) {
        let now = Moment::now();
        if let Some(entries) = &mut self.entries {
            entries.expire(now.monotonic_ns);
        }
        let sweep = self
            .tracker
            .sweep(now.monotonic_ns, &self.settings.timeouts);
        self.retire(&sweep.retire, now);
        self.outbox.close(sweep.closed);
        self.close_idlest();
        self.tracker.slim();
        self.forget_interfaces();
    }

    /// Last records of the idlest connections, when there are more than are kept.
    pub(super) fn close_idlest(&mut self) {
        let (most, open) = (self.pressure.connections(), self.tracker.len());
        if open - self.outbox.closing.len().min(open) > most {
            // A little more than there must: the next one has room.
            let idlest = self.tracker.idlest_connections(open - most + most / 16);
            let before = self.outbox.closing.len();
            self.outbox.close(idlest);
            self.pressure
                .gave_up_connections(self.outbox.closing.len() - before);
        }
        self.tracker.slim();
        self.forget_interfaces();
    }

    /// Whether more connections wait for their last record than may: then nobody is waited for.
    pub(super) fn overflows(&self) -> bool {
        self.tracker.len() >= self.pressure.most()
    }

    /// The next records, `most` at a time.
    pub(super) fn say(&mut self, most: usize, mut emit: impl FnMut(Flow)) {
        let now = Moment::now();
        let pressed = self.outbox.waiting.len() > LONG;
        self.retire_closing(most, now);
        for _ in 0..most {
            let Some((id, event)) = self.outbox.next() else {
                return;
            };
            let Some(standing) = self.tracker.standing(id) else {
                // Joined with another one meanwhile.
                continue;
            };
            match event {
                Event::Open if standing.opened => {}
                Event::Update if !standing.opened || !standing.dirty => {}
                Event::Close => {
                    let opened = self.tracker.standing(id).is_some_and(|one| one.opened);
                    let first = (!opened && !pressed).then_some(Event::Open);
                    for event in first.into_iter().chain([Event::Close]) {
                        if let Some(flow) = self.report(id, event, now) {
                            emit(flow);
                        }
                    }
                    self.tracker.close(id, now.monotonic_ns);
                }
                event => {
                    if let Some(flow) = self.report(id, event, now) {
                        emit(flow);
                    }
                }
            }
        }
    }

    /// Takes out the records of connections whose last word is among the next ones.
    fn retire_closing(&mut self, most: usize, now: Moment) {
        let next = self.outbox.waiting.iter().take(most);
        let closing = next.filter(|(_, event)| *event == Event::Close);
        let keys: Vec<HopKey> = closing
            .flat_map(|(id, _)| self.tracker.records_of(*id))
            .collect();
        if !keys.is_empty() {
            self.retire(&keys, now);
        }
    }

    fn report(&mut self, id: u64, event: Event, now: Moment) -> Option<Flow> {
        let mark = match self.notes.is_kept() {
            true => self.tracker.mark(id, event == Event::Close),
            false => None,
        };
        let connection = self.tracker.get(id)?;
        let node = &self.settings.node;
        let mut flow = flow::flow(&connection, event, node, &self.interfaces, now);
        let totals = (flow.forward.total, flow.reply.total);
        self.tracker.reported(id, totals);
        flow.mark = mark;
        Some(flow)
    }
}
