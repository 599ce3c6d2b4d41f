//! The ring of events, as an async source.

use bytes::Buf;
use nodescope_ebpf::{Address, EventKind, HopKey, OpenEvent};

use super::Error;
use super::ring::Ring;

const EVENTS: &str = "EVENTS";

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
    pub async fn next(&mut self, most: usize) -> std::io::Result<Vec<HopKey>> {
        self.0.next(most, decode).await
    }
}

/// One event; `None` when its size or kind is not the contract's.
fn decode(mut bytes: &[u8]) -> Option<HopKey> {
    if bytes.len() < size_of::<OpenEvent>() {
        return None;
    }
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
    (bytes.get_u32_ne() < EventKind::COUNT).then_some(key)
}
