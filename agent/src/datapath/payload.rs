//! Heads of payload from the kernel side, and the map that says of which conversations.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::maps::{HashMap as BpfHashMap, MapData};
use bytes::Buf;
use nodescope_ebpf::{Address, HEAD, HopKey, PayloadEvent, ProbeEnd, ProbeKey, mapped};

use super::Error;
use super::pods::ProbePod;
use super::ring::Ring;

const PAYLOAD: &str = "PAYLOAD";
const PROBE_PORTS: &str = "PROBE_PORTS";

/// The head of one packet's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub time_ns: u64,
    /// The conversation at the hook that saw it.
    pub key: HopKey,
    /// Whether the sender is the key's `a`.
    pub from_a: bool,
    /// TCP sequence number of the first byte.
    pub sequence: u32,
    /// Bytes of payload in the packet; more than `bytes` holds when only the head was sent.
    pub length: u32,
    /// The first bytes, at most [`HEAD`].
    pub bytes: Vec<u8>,
}

/// The ring of heads, as an async source.
pub struct Heads(Ring);

impl Heads {
    pub(super) fn take(ebpf: &mut aya::Ebpf) -> Result<Self, Error> {
        Ring::take(ebpf, PAYLOAD).map(Self)
    }

    /// Waits for heads and gives those that are there, `most` of them at a time.
    ///
    /// # Errors
    ///
    /// The descriptor fails.
    pub async fn next(&mut self, most: usize) -> std::io::Result<Vec<Head>> {
        self.0.next(most, decode).await
    }
}

/// One event; `None` when its size is not the contract's.
fn decode(mut bytes: &[u8]) -> Option<Head> {
    if bytes.len() < size_of::<PayloadEvent>() {
        return None;
    }
    let time_ns = bytes.get_u64_ne();
    let mut address = || -> Address { std::array::from_fn(|_| bytes.get_u32_ne()) };
    let (a, b) = (address(), address());
    let key = HopKey {
        a,
        b,
        a_port: bytes.get_u16_ne(),
        b_port: bytes.get_u16_ne(),
        ifindex: bytes.get_u32_ne(),
        protocol: bytes.get_u8(),
        kind: bytes.get_u8(),
        orientation: bytes.get_u8(),
        reserved: bytes.get_u8(),
    };
    let (sequence, length) = (bytes.get_u32_ne(), bytes.get_u32_ne());
    let captured = usize::from(bytes.get_u16_ne()).min(HEAD);
    let from_a = bytes.get_u8() != 0;
    bytes.advance(1);
    Some(Head {
        time_ns,
        key,
        from_a,
        sequence,
        length,
        bytes: bytes.get(..captured)?.to_vec(),
    })
}

/// Ends whose payload is wanted: address and port (0 for the address whatever the port).
pub type ProbeEnds = BTreeMap<(IpAddr, u16), ProbeEnd>;

/// The kernel's map of them, kept equal to what is asked for.
pub struct ProbePorts {
    map: BpfHashMap<MapData, ProbePod, u32>,
    known: ProbeEnds,
    /// Whether the map was found full, which is said once.
    full: bool,
}

impl ProbePorts {
    pub(super) fn take(ebpf: &mut aya::Ebpf) -> Result<Self, Error> {
        Ok(Self {
            map: super::typed(ebpf, PROBE_PORTS)?,
            known: ProbeEnds::new(),
            full: false,
        })
    }

    /// Makes the map hold these and no others. What finds no room is not captured.
    pub fn set(&mut self, wanted: ProbeEnds) {
        if wanted == self.known {
            return;
        }
        for end in self.known.keys() {
            if !wanted.contains_key(end) {
                // One that was never written is as good as gone.
                let _ = self.map.remove(&key(*end));
            }
        }
        for (end, why) in &wanted {
            if self.known.get(end) == Some(why) {
                continue;
            }
            if let Err(error) = self.map.insert(key(*end), *why as u32, 0)
                && !std::mem::replace(&mut self.full, true)
            {
                tracing::warn!(%error, "no room for all probe ports: some answers are not read");
            }
        }
        self.known = wanted;
    }
}

fn key((ip, port): (IpAddr, u16)) -> ProbePod {
    let address = match ip {
        IpAddr::V4(ip) => mapped(ip.octets()),
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            std::array::from_fn(|word| {
                u32::from_ne_bytes(std::array::from_fn(|byte| octets[word * 4 + byte]))
            })
        }
    };
    ProbePod(ProbeKey {
        address,
        port,
        reserved: 0,
    })
}
