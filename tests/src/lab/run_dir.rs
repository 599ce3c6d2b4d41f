//! The directory of a running lab, and the removal of what crashed labs left.

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::netns::{self, Netns};
use super::{names, wait_for};

/// Where labs keep their sockets, logs and locks, a directory each.
pub const RUN_ROOT: &str = "/run/nodescope-lab";

/// A lab's own BPF file system, in its directory.
const BPFFS: &str = "bpf";

/// A lab's own small disk, in its directory.
const SMALL_DISK: &str = "disk";

/// How long processes get to die after SIGKILL before their namespace is removed regardless.
const DEATH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long another lab's cleaning may hold a lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The directory of one lab. Its lock is held as long as this value lives, and the kernel
/// lets go of it when the process dies, however it dies: an unlocked directory is stale.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Takes the directory of lab `name`; an error when a live lab has it.
    pub fn take(name: &str) -> Result<Self> {
        fs::create_dir_all(RUN_ROOT)
            .with_context(|| format!("cannot create {RUN_ROOT}: run the lab as root"))?;
        let path = Path::new(RUN_ROOT).join(name);
        let mut taken = None;
        // A cleaner may hold the lock for a moment, or remove the directory between two of
        // the steps here; a live lab holds it for long.
        let waited = wait_for("the lock", LOCK_TIMEOUT, || {
            let _ = fs::create_dir_all(&path);
            let lock = try_lock(&path).ok().flatten();
            taken = lock.filter(|lock| still_there(lock, &path));
            taken.is_some()
        });
        let (Ok(()), Some(mut lock)) = (waited, taken) else {
            let owner = owner(&path).map_or("?".to_owned(), |pid| pid.to_string());
            bail!("lab '{name}' is already running (pid {owner}): stop it first");
        };
        lock.set_len(0)?;
        write!(lock, "{}", std::process::id())?;
        Ok(Self { path, _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl RunDir {
    /// A BPF file system of the lab's own, mounted when it is first asked for: what is pinned
    /// there goes with the lab, however that ends.
    pub fn bpffs(&self) -> Result<PathBuf> {
        self.mounted(BPFFS, "bpf", MountFlags::empty(), None)
    }

    /// A disk in memory with room for `bytes`, mounted when it is first asked for; it goes with
    /// the lab, however that ends.
    pub fn small_disk(&self, bytes: u64) -> Result<PathBuf> {
        let size = CString::new(format!("size={bytes}"))?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
        self.mounted(SMALL_DISK, "tmpfs", flags, Some(&size))
    }

    fn mounted(
        &self,
        folder: &str,
        kind: &str,
        flags: MountFlags,
        data: Option<&CStr>,
    ) -> Result<PathBuf> {
        let path = self.path.join(folder);
        match fs::create_dir(&path) {
            Ok(()) => mount(kind, &path, kind, flags, data).with_context(|| {
                format!("mounting a file system ({kind}) at {}", path.display())
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context("making the folder of a file system"),
        }
        Ok(path)
    }
}

/// Removes a lab's own file systems with all that is in them, pinned or written.
fn remove_mounts(lab: &Path) {
    for folder in [BPFFS, SMALL_DISK] {
        // Most labs have none.
        let _ = unmount(lab.join(folder), UnmountFlags::DETACH);
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        remove_mounts(&self.path);
        // Still locked here: nobody else can be in it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Names of the labs that run now.
pub fn live() -> Vec<String> {
    lab_dirs()
        .into_iter()
        .filter(|path| matches!(try_lock(path), Ok(None)))
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect()
}

/// Removes namespaces, processes and directories of labs whose process is gone; returns
/// their names. A lab that runs, in this process or another, is left alone.
pub fn clean_stale() -> Result<Vec<String>> {
    let mut cleaned = Vec::new();
    for path in lab_dirs() {
        let Ok(Some(lock)) = try_lock(&path) else {
            continue;
        };
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if !still_there(&lock, &path) || names::check_lab_name(name).is_err() {
            continue;
        }
        remove_namespaces(name)?;
        remove_mounts(&path);
        remove_dir(&path)?;
        cleaned.push(name.to_owned());
    }
    Ok(cleaned)
}

/// Removes a lab's directory. What was killed outside its namespaces may still write there.
fn remove_dir(path: &Path) -> Result<()> {
    let mut last = None;
    let removed = wait_for(
        "the lab's directory to go",
        DEATH_TIMEOUT,
        || match fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                last = Some(error);
                false
            }
            _ => true,
        },
    );
    match (removed, last) {
        (Err(_), Some(error)) => Err(error).with_context(|| format!("removing {}", path.display())),
        (outcome, _) => outcome,
    }
}

/// Ends what still runs in the namespaces of lab `lab`, then removes them.
pub fn remove_namespaces(lab: &str) -> Result<()> {
    remove(&netns::with_prefix(&names::namespace_prefix(lab)))
}

/// Ends what still runs in the namespace of a pod, then removes its interface and itself.
///
/// The kernel takes a namespace down in its own time, and until then it answers pings; a removed
/// interface is gone when the command returns, which is why CNI plugins remove it by name too.
pub fn remove_netns(space: &Netns) -> Result<()> {
    let name = [space.name().to_owned()];
    end_processes(&name);
    // A test may have moved or removed it already.
    let _ = space.ip(&["link delete eth0".to_owned()]);
    netns::remove(&name)
}

fn remove(found: &[String]) -> Result<()> {
    end_processes(found);
    netns::remove(found)
}

fn end_processes(found: &[String]) {
    let inside = || -> Vec<u32> {
        let spaces = found.iter().map(|name| Netns::named(name.as_str()));
        spaces.flat_map(|space| space.processes()).collect()
    };
    for pid in inside() {
        // Only processes in this lab's own namespaces. One that is gone already is no error.
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let _ = wait_for("processes of the lab to end", DEATH_TIMEOUT, || {
        inside().is_empty()
    });
}

fn lab_dirs() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(RUN_ROOT) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

/// The lock of the lab directory `path`; none when a live process holds it.
fn try_lock(path: &Path) -> Result<Option<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join("lock"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

fn still_there(lock: &File, path: &Path) -> bool {
    let locked = lock.metadata().map(|file| file.ino());
    let named = fs::metadata(path.join("lock")).map(|file| file.ino());
    matches!((locked, named), (Ok(a), Ok(b)) if a == b)
}

/// The process that wrote itself into the lock.
fn owner(path: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(path.join("lock"))
        .ok()?
        .read_to_string(&mut text)
        .ok()?;
    text.trim().parse().ok()
}
