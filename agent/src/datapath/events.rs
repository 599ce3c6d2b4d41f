//! The ring of events, as an async source.

use bytes::Buf;
use nodescope_ebpf::{Address, EventKind, HopKey, OpenEvent};

use super::Error;
use super::ring::Ring;

const EVENTS: &str = "EVENTS";

/// Something to look at now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The record that it is about.
    pub key: HopKey,
    /// Whether the record is new (or its connection is).
    pub opened: bool,
}

/// What the kernel side tells at once.
pub struct Events(Ring);

impl Events {
    pub(super) fn take(ebpf: &mut aya::Ebpf) -> Result<Self, Error> {
        Ring::take(ebpf, EVENTS).map(Self)
    }

    /// Waits for events and gives those that are there, `most` of them at a time.
    ///
    /// # Errors
    ///
    /// The descriptor fails.
    pub async fn next(&mut self, most: usize) -> std::io::Result<Vec<Told>> {
        self.0.next(most, decode).await
    }
}

/// A key, of which all bytes are there.
pub(super) fn key(bytes: &mut &[u8]) -> HopKey {
    let mut address = || -> Address { std::array::from_fn(|_| bytes.get_u32_ne()) };
    let (a, b) = (address(), address());
    HopKey {
        a,
        b,
        a_port: bytes.get_u16_ne(),
        b_port: bytes.get_u16_ne(),
        ifindex: bytes.get_u32_ne(),
        protocol: bytes.get_u8(),
        kind: bytes.get_u8(),
        orientation: bytes.get_u8(),
        reserved: bytes.get_u8(),
    }
}

/// One event; `None` when its size or kind is not the contract's.
fn decode(mut bytes: &[u8]) -> Option<Told> {
    if bytes.len() < size_of::<OpenEvent>() {
        return None;
    }
    let key = key(&mut bytes);
    let kind = bytes.get_u32_ne();
    (kind < EventKind::COUNT).then_some(Told {
        key,
        opened: kind == EventKind::Open as u32,
    })
}
