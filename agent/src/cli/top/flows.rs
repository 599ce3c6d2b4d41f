//! What is known from the records that came: connections with their rates, and what was dropped.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use crate::cli::row;
use crate::sink::observer::structs::{self, Fields};
use crate::sink::proto::flow::Flow;
use crate::sink::proto::observer::GetFlowsResponse;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;

/// What has ended stays so long.
const ENDED: Duration = Duration::from_secs(10);
/// What no record was about for so long has ended unseen.
const SILENT: Duration = Duration::from_secs(600);
/// A rate is that of the last record for so long: twice the default time between two records.
const FRESH: Duration = Duration::from_secs(12);
/// More connections than this, and the oldest are forgotten.
const MOST: usize = 50_000;
/// The time that the first record of a connection is taken to tell of, at least.
const SHORTEST: f64 = 1.0;

/// Bytes and packets a second, both ways together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) bytes: f64,
    pub(super) packets: f64,
}

impl std::ops::AddAssign for Rate {
    fn add_assign(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.packets += more.packets;
    }
}

/// A connection on a node, or packets of one that died.
#[derive(Debug)]
pub(super) struct Known {
    /// The node.
    pub(super) node: String,
    /// Initiator, and whom it asked.
    pub(super) ends: (String, String),
    /// Names of the pods among them.
    pub(super) pods: [Option<String>; 2],
    pub(super) protocol: String,
    pub(super) class: String,
    /// Since the start.
    pub(super) totals: Rate,
    rate: Rate,
    /// When the last record was made.
    pub(super) seen: SystemTime,
    pub(super) event: String,
    /// Everything else that the record says.
    pub(super) fields: Fields,
}

impl Known {
    /// What it carried by its last record, if that was not long ago.
    pub(super) fn rate(&self, now: SystemTime) -> Rate {
        let age = now.duration_since(self.seen).unwrap_or_default();
        if self.is_over() || age > FRESH {
            Rate::default()
        } else {
            self.rate
        }
    }

    /// Whether its last record was told.
    pub(super) fn is_over(&self) -> bool {
        self.event == "close"
    }

    /// A text of the extension.
    pub(super) fn word(&self, path: &[&str]) -> &str {
        structs::text(&self.fields, path).unwrap_or("-")
    }

    /// A number of the extension.
    pub(super) fn number(&self, path: &[&str]) -> Option<f64> {
        structs::number(&self.fields, path)
    }
}

/// Everything that came.
#[derive(Debug, Default)]
pub(super) struct Flows {
    /// By node and connection; drops are connections of their own.
    pub(super) all: HashMap<(String, String), Known>,
    /// Records that came.
    pub(super) records: u64,
    /// The time of the newest record, which agents' clocks tell.
    pub(super) newest: Option<SystemTime>,
    /// While it is paused nothing is taken in, and nothing forgotten.
    pub(super) paused: bool,
}

impl Flows {
    /// Takes in a record.
    pub(super) fn take(&mut self, response: &GetFlowsResponse) {
        let Some(ResponseTypes::Flow(flow)) = &response.response_types else {
            return;
        };
        if self.paused {
            return;
        }
        let Some(known) = read(response, flow) else {
            return;
        };
        self.records += 1;
        self.newest = self.newest.max(Some(known.seen));
        let connection = known.word(&["connection"]).to_owned();
        let place = match known.event.as_str() {
            "drop" => format!("{connection} {}", known.word(&["drop", "reason"])),
            _ => connection,
        };
        let key = (known.node.clone(), place);
        let before = self.all.get(&key).map(|before| (before.seen, before.rate));
        let mut known = known;
        if let Some((seen, _)) = before {
            let passed = known.seen.duration_since(seen).unwrap_or_default();
            let seconds = passed.as_secs_f64().max(SHORTEST);
            known.rate = since_last(&known.fields, seconds);
        }
        self.all.insert(key, known);
    }

    /// Forgets what is over.
    pub(super) fn forget(&mut self, now: SystemTime) {
        if self.paused {
            return;
        }
        self.all.retain(|_, known| {
            let age = now.duration_since(known.seen).unwrap_or_default();
            let keep = match known.event.as_str() {
                "close" => ENDED,
                _ => SILENT,
            };
            age < keep
        });
        if self.all.len() > MOST {
            let mut times: Vec<SystemTime> = self.all.values().map(|one| one.seen).collect();
            let surplus = times.len() - MOST;
            let (_, oldest, _) = times.select_nth_unstable(surplus);
            let oldest = *oldest;
            self.all.retain(|_, known| known.seen > oldest);
        }
    }
}

fn read(response: &GetFlowsResponse, flow: &Flow) -> Option<Known> {
    let fields = flow.extensions.as_ref().and_then(structs::unpack)?;
    let time = response.time.as_ref().or(flow.time.as_ref())?;
    let seen = SystemTime::try_from(*time).ok()?;
    let pod = |end: &Option<crate::sink::proto::flow::Endpoint>| {
        let end = end.as_ref().filter(|end| !end.pod_name.is_empty())?;
        Some(format!("{}/{}", end.namespace, end.pod_name))
    };
    let node = match flow.node_name.as_str() {
        "" => response.node_name.clone(),
        name => name.to_owned(),
    };
    Some(Known {
        node,
        ends: (row::source(flow), row::destination(flow, &fields)),
        pods: [pod(&flow.source), pod(&flow.destination)],
        protocol: row::protocol(flow).to_owned(),
        class: structs::text(&fields, &["class"]).unwrap_or("-").to_owned(),
        totals: both(&fields, "bytes_total", "packets_total"),
        rate: since_last(&fields, SHORTEST),
        seen,
        event: structs::text(&fields, &["event"])?.to_owned(),
        fields,
    })
}

fn both(fields: &Fields, bytes: &str, packets: &str) -> Rate {
    let sum = |key| {
        let way = |way| structs::number(fields, &[way, key]).unwrap_or_default();
        way("forward") + way("reply")
    };
    Rate {
        bytes: sum(bytes),
        packets: sum(packets),
    }
}

fn since_last(fields: &Fields, seconds: f64) -> Rate {
    let Rate { bytes, packets } = both(fields, "bytes", "packets");
    Rate {
        bytes: bytes / seconds,
        packets: packets / seconds,
    }
}
