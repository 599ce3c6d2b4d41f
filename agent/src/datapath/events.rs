//! The ring of events, as an async source.

use aya::maps::{Map, MapData, RingBuf};
use bytes::Buf;
use nodescope_ebpf::{Address, EventKind, HopKey, OpenEvent};
use tokio::io::unix::AsyncFd;

use super::Error;

const EVENTS: &str = "EVENTS";

/// What the kernel side tells at once.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    pub(super) fn take(ebpf: &mut aya::Ebpf) -> Result<Self, Error> {
        let map: Map = ebpf.take_map(EVENTS).ok_or(Error::Incomplete(EVENTS))?;
        let ring = RingBuf::try_from(map).map_err(|error| Error::Load(error.to_string()))?;
        // SAFETY: the ring owns its descriptor and keeps it open for as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, tokio::io::Interest::READABLE) }
            .map_err(|error| Error::Map {
                map: EVENTS,
                source: error.into(),
            })?;
        Ok(Self { ring })
    }

    /// Waits for events and gives those that are there, `most` of them at a time.
    ///
    /// # Errors
    ///
    /// The descriptor fails.
    pub async fn next(&mut self, most: usize) -> std::io::Result<Vec<HopKey>> {
        let mut guard = self.ring.readable_mut().await?;
        let ring = guard.get_inner_mut();
        let mut keys = Vec::new();
        while keys.len() < most {
            let Some(item) = ring.next() else {
                guard.clear_ready();
                break;
            };
            keys.extend(decode(&item));
        }
        Ok(keys)
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
