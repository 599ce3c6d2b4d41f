//! What outlives the agent: maps and links under a folder of the BPF file system, so that an
//! upgrade or a crash leaves no gap.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::MapData;
use rustix::fs::{FlockOperation, flock, statfs};

use super::{Error, batch};

/// `BPF_FS_MAGIC` (uapi linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// How long an agent that ends may keep the folder.
const HANDOVER: Duration = Duration::from_secs(1);
/// `SO_NETNS_COOKIE` (uapi asm-generic/socket.h, 5.14 and later): not in libc for every target.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Where programs and maps are pinned, and whether they stay when the agent ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinning {
    /// A folder on a BPF file system; each network namespace has one of its own in it.
    pub folder: PathBuf,
    /// Leave everything where it is at the end, for the next agent to take over.
    pub keep: bool,
}

/// A map as an agent of this version makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    /// Bytes of a key.
    pub(super) key: u32,
    /// Bytes of a value.
    pub(super) value: u32,
    /// Entries at most.
    pub(super) entries: u32,
}

/// What an earlier agent left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing.
    Nothing,
    /// What this agent would make.
    Same,
    /// The same, of another size: it can be read.
    Resized,
    /// Something that this agent does not understand.
    Other,
}

/// The folder of this network namespace, locked.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    folder: PathBuf,
    /// The kernel lets go of it when the process dies, however it dies.
    _lock: Arc<File>,
}

impl Pins {
    /// Takes the folder; `None`, with the reason in the log, where nothing can be pinned.
    ///
    /// # Errors
    ///
    /// Another agent has it.
    pub(super) fn open(base: &Path) -> Result<Option<Self>, Error> {
        let folder = match prepare(base) {
            Ok(folder) => folder,
            Err(why) => {
                tracing::warn!(
                    "nothing is pinned, and what passes while no agent runs is not counted: {why}"
                );
                return Ok(None);
            }
        };
        Self::lock(folder).map(Some)
    }

    fn lock(folder: PathBuf) -> Result<Self, Error> {
        let lock = File::open(&folder).map_err(|error| Error::Pins {
            path: folder.clone(),
            reason: error.to_string(),
        })?;
        let start = Instant::now();
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if start.elapsed() > HANDOVER {
                return Err(Error::Busy(folder));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self {
            folder,
            _lock: Arc::new(lock),
        })
    }

    /// The file of a map.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file of a link.
    pub(super) fn link(&self, ifindex: u32, egress: bool) -> PathBuf {
        let direction = if egress { "egress" } else { "ingress" };
        self.folder.join(format!("link-{ifindex}-{direction}"))
    }

    /// Interfaces that have a link here.
    pub(super) fn linked(&self) -> BTreeSet<u32> {
        let names = self.files().into_iter().filter_map(|path| {
            let name = path.file_name()?.to_str()?.to_owned();
            name.strip_prefix("link-")?.split('-').next()?.parse().ok()
        });
        names.collect()
    }

    /// Removes the links of an interface, and with them the programs.
    pub(super) fn unlink(&self, ifindex: u32) {
        for egress in [false, true] {
            // There may be none.
            let _ = fs::remove_file(self.link(ifindex, egress));
        }
    }

    /// How the maps of an earlier run compare with these.
    pub(super) fn compare(&self, wanted: &[Shape]) -> Left {
        if self.files().is_empty() {
            return Left::Nothing;
        }
        let mut left = Left::Same;
        for shape in wanted {
            let info = MapData::from_pin(self.map(shape.name)).and_then(|map| map.info());
            let Ok(info) = info else {
                return Left::Other;
            };
            if (info.key_size(), info.value_size()) != (shape.key, shape.value) {
                return Left::Other;
            }
            if info.max_entries() != shape.entries {
                left = Left::Resized;
            }
        }
        left
    }

    /// Removes everything: links, with which the programs go, and maps. Gives how many files
    /// there were, and how many conversations the table `counted` of an unknown layout held.
    pub(super) fn clear(&self, counted: &str) -> (usize, u64) {
        let table = MapData::from_pin(self.map(counted)).ok();
        let records = table.and_then(|map| {
            let size = map.info().ok()?.key_size();
            batch::count(map.fd().as_fd(), size).ok()
        });
        let files = self.files();
        // Links first: nothing is to be counted in maps that nobody will read.
        let (links, maps): (Vec<_>, Vec<_>) = files.iter().partition(|path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with("link-")
        });
        for path in links.into_iter().chain(maps) {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove what is pinned");
            }
        }
        (files.len(), records.unwrap_or_default())
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten();
        entries.flatten().map(|entry| entry.path()).collect()
    }
}

/// What this network namespace has under `base`, for removal; `None` when there is nothing.
///
/// # Errors
///
/// An agent runs with it.
pub(super) fn existing(base: &Path) -> Result<Option<Pins>, Error> {
    match own_folder(base) {
        Ok(folder) if folder.is_dir() => Pins::lock(folder).map(Some),
        _ => Ok(None),
    }
}

/// Removes the empty folder of this namespace, and the one around it when that is empty too.
pub(super) fn remove_folder(pins: Pins) {
    let folder = pins.folder.clone();
    drop(pins);
    if fs::remove_dir(&folder).is_ok()
        && let Some(base) = folder.parent()
    {
        // It stays while other namespaces have theirs in it, or when it is a mount.
        let _ = fs::remove_dir(base);
    }
}

/// A number that no other network namespace has had since the machine started; 0 where the
/// kernel has none to give (before 5.14).
pub(super) fn namespace_cookie() -> u64 {
    let Ok(socket) = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)) else {
        return 0;
    };
    let mut cookie = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to `cookie`, which has as many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    if result == 0 { cookie } else { 0 }
}

/// The folder of this thread's network namespace.
fn own_folder(base: &Path) -> Result<PathBuf, String> {
    let path = "/proc/thread-self/ns/net";
    let namespace = fs::metadata(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(base.join(namespace.st_ino().to_string()))
}

/// Makes the folder, on a BPF file system.
fn prepare(base: &Path) -> Result<PathBuf, String> {
    let there = base.ancestors().find(|path| path.exists());
    if !there.is_some_and(is_bpffs) {
        return Err(format!(
            "{} is on no BPF file system: mount one (`mount -t bpf bpf /sys/fs/bpf`; in a pod, a \
             hostPath volume), or say --bpffs none",
            base.display()
        ));
    }
    let folder = own_folder(base)?;
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// Whether a path is on a BPF file system.
pub(super) fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.f_type as u64 == BPF_FS_MAGIC)
}
