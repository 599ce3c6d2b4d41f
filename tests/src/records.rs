//! Flow records as the agent writes them, and what they add up to.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::identity::Counted;

/// One flow record, read as INTERFACE says it is written.
#[derive(Clone, Debug)]
pub struct Record(pub Value);

impl Record {
    /// A field of the flow.
    pub fn flow(&self, pointer: &str) -> &Value {
        self.0["flow"].pointer(pointer).unwrap_or(&Value::Null)
    }

    /// A field of the extension.
    pub fn ext(&self, pointer: &str) -> &Value {
        self.0["flow"]["extensions"]["value"]
            .pointer(pointer)
            .unwrap_or(&Value::Null)
    }

    /// `open`, `update`, `close` or `drop`.
    pub fn event(&self) -> &str {
        self.ext("/event").as_str().unwrap_or_default()
    }

    /// A tuple of the extension as source and destination.
    pub fn tuple(&self, pointer: &str) -> Option<(SocketAddr, SocketAddr)> {
        let tuple = self.ext(pointer);
        let end = |ip: &str, port: &str| {
            let port = u16::try_from(number(&tuple[port])?).ok()?;
            Some(SocketAddr::new(tuple[ip].as_str()?.parse().ok()?, port))
        };
        Some((end("src", "sport")?, end("dst", "dport")?))
    }

    /// The far end's view of the initiator.
    pub fn remote_sees(&self) -> Option<SocketAddr> {
        let seen = self.ext("/remote_sees");
        let port = u16::try_from(number(&seen["port"])?).ok()?;
        Some(SocketAddr::new(seen["ip"].as_str()?.parse().ok()?, port))
    }

    /// Names of the hops, in path order.
    pub fn path(&self) -> Vec<&str> {
        let hops = self.ext("/hops").as_array();
        hops.into_iter()
            .flatten()
            .filter_map(|hop| hop["interface"].as_str())
            .collect()
    }

    /// A hop by its interface.
    pub fn hop(&self, interface: &str) -> Result<Hop> {
        let hops = self.ext("/hops").as_array();
        hops.into_iter()
            .flatten()
            .find(|hop| hop["interface"] == interface)
            .map(|hop| Hop(hop.clone()))
            .with_context(|| format!("no hop {interface} in {}", self.0))
    }
}

/// One hop of a record.
#[derive(Clone, Debug)]
pub struct Hop(pub Value);

impl Hop {
    /// Whether the initiator's packets are the ingress of this interface.
    pub fn is_ingress(&self) -> bool {
        self.0["direction"] == "ingress"
    }

    /// Packets and bytes of the interface's ingress and of its egress.
    pub fn both_ways(&self) -> Option<[(u64, u64); 2]> {
        self.ways(&self.0)
    }

    /// ICMP errors about the connection, in the form of [`Hop::both_ways`].
    pub fn errors(&self) -> [(u64, u64); 2] {
        self.ways(&self.0["icmp_errors"]).unwrap_or_default()
    }

    fn ways(&self, counts: &Value) -> Option<[(u64, u64); 2]> {
        let pair =
            |packets: &str, bytes: &str| Some((number(&counts[packets])?, number(&counts[bytes])?));
        let forward = pair("packets", "bytes")?;
        let reply = pair("reply_packets", "reply_bytes")?;
        Some(if self.is_ingress() {
            [forward, reply]
        } else {
            [reply, forward]
        })
    }
}

/// A count, which the JSON form of a Struct writes as a floating-point number.
pub fn number(value: &Value) -> Option<u64> {
    value
        .as_u64()
        .or_else(|| value.as_f64().map(|number| number as u64))
}

/// Connections whose last record came are kept until so many others closed: an agent that was
/// killed between a record and its note tells that record again.
const KEPT: usize = 20_000;

/// What records say of hooks, added up as they come: the last totals of every connection's hops.
#[derive(Debug, Default)]
pub struct Sums {
    last: HashMap<String, Told>,
    closed: VecDeque<String>,
    folded: Counted,
}

/// What was told of a connection.
#[derive(Debug, Default)]
struct Told {
    hops: Vec<(String, [u64; 4])>,
    /// Packets and bytes of both ways, added up from the records.
    deltas: [u64; 4],
    closed: bool,
}

impl Sums {
    /// Takes a record in.
    ///
    /// # Errors
    /// The portions that the connection's records told do not add up to the totals of this one.
    /// It is taken in all the same.
    pub fn add(&mut self, record: &Record) -> Result<()> {
        let id = record.ext("/connection").to_string();
        let told = self.last.entry(id.clone()).or_default();
        told.hops = hops(record);
        let mut totals = [0; 4];
        let counts = [
            "forward/packets",
            "forward/bytes",
            "reply/packets",
            "reply/bytes",
        ];
        for (at, name) in counts.into_iter().enumerate() {
            let count = |name: String| number(record.ext(&name)).unwrap_or_default();
            told.deltas[at] += count(format!("/{name}"));
            totals[at] = count(format!("/{name}_total"));
        }
        let sum = std::mem::replace(&mut told.deltas, totals);
        if record.event() == "close" && !std::mem::replace(&mut told.closed, true) {
            self.closed.push_back(id.clone());
        }
        while self.closed.len() > KEPT {
            let old = self.closed.pop_front().and_then(|id| self.last.remove(&id));
            let hops = old.map(|old| old.hops).unwrap_or_default();
            hops.into_iter().for_each(|hop| add(&mut self.folded, hop));
        }
        ensure!(
            sum == totals,
            "portions of {id} add up to {sum:?}: {}",
            record.0
        );
        Ok(())
    }

    /// The sums of all until now.
    pub fn counted(&self) -> Counted {
        let mut sums = self.folded.clone();
        let hops = self.last.values().flat_map(|told| &told.hops);
        hops.cloned().for_each(|hop| add(&mut sums, hop));
        sums
    }
}

fn add(sums: &mut Counted, (interface, values): (String, [u64; 4])) {
    let sum = sums.entry(interface).or_default();
    (0..4).for_each(|at| sum[at] += values[at]);
}

/// What a record's hops counted so far, by interface. ICMP errors are in neither direction's
/// traffic.
fn hops(record: &Record) -> Vec<(String, [u64; 4])> {
    let all = record.ext("/hops").as_array();
    let hops = all.into_iter().flatten().cloned().map(Hop);
    hops.filter_map(|hop| {
        let interface = hop.0["interface"].as_str().unwrap_or_default().to_owned();
        let ([ingress, egress], errors) = (hop.both_ways()?, hop.errors());
        let sum = |way: (u64, u64), error: (u64, u64)| [way.0 + error.0, way.1 + error.1];
        let ([a, b], [c, d]) = (sum(ingress, errors[0]), sum(egress, errors[1]));
        Some((interface, [a, b, c, d]))
    })
    .collect()
}

/// The sums of all these records, whose portions must add up.
///
/// # Errors
/// Those of a connection do not.
pub fn sums(records: &[Record]) -> Result<Counted> {
    let mut sums = Sums::default();
    records.iter().try_for_each(|record| sums.add(record))?;
    Ok(sums.counted())
}
