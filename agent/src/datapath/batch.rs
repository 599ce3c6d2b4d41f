//! What aya does not offer: batch look-ups, and look-up-and-delete on hash maps.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Pod;
use aya_obj::generated::{bpf_attr, bpf_cmd};

/// `bpf(2)` with a command and its attributes.
fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<()> {
    // SAFETY: the kernel reads and writes only `attributes` and the buffers that it names, which
    // the callers keep alive and large enough for the count that they give.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_ulong,
            std::ptr::from_mut(attributes),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn attributes() -> bpf_attr {
    // SAFETY: a union of plain numbers, for which zero is a value; the kernel asks for zeroes in
    // everything that a command does not use.
    unsafe { std::mem::zeroed() }
}

/// Reads a hash map in batches.
pub struct Batches<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

/// How far a reading of a map has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    at: u64,
    begun: bool,
    over: bool,
}

impl<K: Pod + Default, V: Pod + Default> Batches<K, V> {
    /// Room for `size` entries at a time.
    pub fn new(size: usize) -> Self {
        Self {
            keys: vec![K::default(); size],
            values: vec![V::default(); size],
        }
    }

    /// The next entries; none at the end. Each is given once, save those that come or go
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// The kernel refuses (before 5.6 it does not know batches).
    pub fn next(
        &mut self,
        map: BorrowedFd<'_>,
        cursor: &mut Cursor,
    ) -> io::Result<Option<impl Iterator<Item = (&K, &V)>>> {
        while !cursor.over {
            let mut attr = attributes();
            let from = cursor.at;
            // A union field: every member of `batch` is a plain number.
            attr.batch.in_batch = if cursor.begun {
                std::ptr::from_ref(&from) as u64
            } else {
                0
            };
            attr.batch.out_batch = std::ptr::from_mut(&mut cursor.at) as u64;
            attr.batch.keys = self.keys.as_mut_ptr() as u64;
            attr.batch.values = self.values.as_mut_ptr() as u64;
            attr.batch.count = self.keys.len() as u32;
            attr.batch.map_fd = map.as_raw_fd() as u32;
            match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
                Ok(()) => {}
                // The end of the map; what was found is there.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => cursor.over = true,
                // One bucket holds more than the room: nothing was copied.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    let size = self.keys.len() * 2;
                    *self = Self::new(size);
                    continue;
                }
                Err(error) => return Err(error),
            }
            cursor.begun = true;
            // SAFETY: the kernel wrote the number of entries back into the same member.
            let count = unsafe { attr.batch.count } as usize;
            return Ok(Some(self.keys.iter().zip(&self.values).take(count)));
        }
        Ok(None)
    }

    /// Shows every entry once, save those that come or go meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Batches::next`].
    pub fn for_each(&mut self, map: BorrowedFd<'_>, mut see: impl FnMut(&K, &V)) -> io::Result<()> {
        let mut cursor = Cursor::default();
        while let Some(entries) = self.next(map, &mut cursor)? {
            entries.for_each(|(key, value)| see(key, value));
        }
        Ok(())
    }
}

/// The attributes of a command on one element.
fn element<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: *mut V) -> bpf_attr {
    let mut attr = attributes();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    attr.__bindgen_anon_2.key = std::ptr::from_ref(key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value as u64;
    attr
}

/// Whether a command found its entry; any other failure is passed on.
fn found(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads an entry; `None` when it is not there.
///
/// # Errors
///
/// The kernel refuses.
pub fn get<K: Pod, V: Pod + Default>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = V::default();
    let mut attr = element(map, key, &raw mut value);
    Ok(found(bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr))?.then_some(value))
}

/// What became of an entry that was to be taken out.
pub enum Taken<V> {
    /// Its last value.
    Entry(V),
    /// It is not there.
    Missing,
    /// This kernel cannot look up and delete at once (hash maps: before 5.14).
    Unsupported,
}

/// Takes an entry out and gives its last value.
///
/// # Errors
///
/// The kernel refuses.
pub fn take<K: Pod, V: Pod + Default>(map: BorrowedFd<'_>, key: &K) -> io::Result<Taken<V>> {
    /// `ENOTSUPP`, the kernel's own word for a map type that lacks an operation; not in libc.
    const ENOTSUPP: i32 = 524;

    let mut value = V::default();
    let mut attr = element(map, key, &raw mut value);
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP)
            ) =>
        {
            Ok(Taken::Unsupported)
        }
        result => Ok(if found(result)? {
            Taken::Entry(value)
        } else {
            Taken::Missing
        }),
    }
}

/// As [`take`], in two calls on kernels that need them: what is added in between is lost there.
/// For what is no count of packets.
///
/// # Errors
///
/// The kernel refuses.
pub fn take_or_delete<K: Pod, V: Pod + Default>(
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    match take(map, key)? {
        Taken::Entry(value) => Ok(Some(value)),
        Taken::Missing => Ok(None),
        Taken::Unsupported => {
            let value = get(map, key)?;
            let mut attr = element::<K, V>(map, key, std::ptr::null_mut());
            found(bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr))?;
            Ok(value)
        }
    }
}

/// Sets an entry.
///
/// # Errors
///
/// The kernel refuses.
pub fn set<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut attr = element(map, key, std::ptr::from_ref(value).cast_mut());
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr)
}

/// Sets many entries in one call.
///
/// # Errors
///
/// The kernel refuses one of them; those before it are set.
pub fn set_many<K: Pod, V: Pod>(map: BorrowedFd<'_>, entries: &[(K, V)]) -> io::Result<()> {
    match entries {
        [] => return Ok(()),
        [(key, value)] => return set(map, key, value),
        _ => {}
    }
    let (keys, values): (Vec<K>, Vec<V>) = entries.iter().copied().unzip();
    let mut attr = attributes();
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.values = values.as_ptr() as u64;
    attr.batch.count = keys.len() as u32;
    attr.batch.map_fd = map.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr)
}

/// Deletes many entries in as few calls as it takes; those that are not there are no error.
///
/// # Errors
///
/// The kernel refuses.
pub fn delete_many<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<()> {
    let mut left = keys;
    while !left.is_empty() {
        let mut attr = attributes();
        attr.batch.keys = left.as_ptr() as u64;
        attr.batch.count = left.len() as u32;
        attr.batch.map_fd = map.as_raw_fd() as u32;
        if found(bpf(bpf_cmd::BPF_MAP_DELETE_BATCH, &mut attr))? {
            return Ok(());
        }
        // SAFETY: the kernel wrote back how many it deleted before the one that is not there.
        let deleted = unsafe { attr.batch.count } as usize;
        left = left.get(deleted + 1..).unwrap_or_default();
    }
    Ok(())
}

/// How many entries a hash map with keys of so many bytes has.
///
/// # Errors
///
/// The kernel refuses.
pub fn count(map: BorrowedFd<'_>, key_size: u32) -> io::Result<u64> {
    let mut key = vec![0_u8; key_size as usize];
    let mut next = key.clone();
    let mut entries = 0;
    loop {
        let mut attr = attributes();
        attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
        attr.__bindgen_anon_2.key = if entries == 0 { 0 } else { key.as_ptr() as u64 };
        attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
        if !found(bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr))? {
            return Ok(entries);
        }
        entries += 1;
        std::mem::swap(&mut key, &mut next);
    }
}
