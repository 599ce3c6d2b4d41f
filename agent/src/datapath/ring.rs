//! A ring buffer of the kernel side, as an async source.

use aya::maps::{Map, MapData, RingBuf};
use tokio::io::unix::AsyncFd;

use super::Error;

/// Items of one kind, in the order in which the kernel side put them there.
pub(super) struct Ring {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Ring {
    /// Takes the ring of that name out of the object; it can be taken once.
    pub(super) fn take(ebpf: &mut aya::Ebpf, name: &'static str) -> Result<Self, Error> {
        let map: Map = ebpf.take_map(name).ok_or(Error::Incomplete(name))?;
        let ring = RingBuf::try_from(map).map_err(|error| Error::Load(error.to_string()))?;
        // SAFETY: the ring owns its descriptor and keeps it open for as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, tokio::io::Interest::READABLE) }
            .map_err(|error| Error::Map {
                map: name,
                source: error.into(),
            })?;
        Ok(Self { ring })
    }

    /// Waits for items and gives those that are there and can be decoded, `most` at a time.
    ///
    /// # Errors
    ///
    /// The descriptor fails.
    pub(super) async fn next<T>(
        &mut self,
        most: usize,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> std::io::Result<Vec<T>> {
        let mut guard = self.ring.readable_mut().await?;
        let ring = guard.get_inner_mut();
        let mut items = Vec::new();
        while items.len() < most {
            let Some(item) = ring.next() else {
                guard.clear_ready();
                break;
            };
            items.extend(decode(&item));
        }
        Ok(items)
    }
}
