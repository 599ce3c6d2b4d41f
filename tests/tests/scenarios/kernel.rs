//! What an agent holds in the kernel, by its file descriptors: links, and entries of its maps.

use std::collections::BTreeMap;
use std::fs;
use std::mem::offset_of;
use std::path::PathBuf;

use anyhow::{Result, bail};
use aya::maps::{HashMap, Map, MapData, MapError, MapInfo, PerCpuHashMap};
use nodescope_ebpf::{Counter, HopKey, HopRecord, UnattributedKey};
use nodescope_tests::lab::Agent;

/// File descriptors of an agent that are links, programs and maps, and how many of each.
pub fn held(agent: &Agent) -> Result<BTreeMap<String, usize>> {
    let mut all = BTreeMap::new();
    for file in fs::read_dir(process(agent, "fd"))? {
        // One that was closed meanwhile.
        let Ok(what) = fs::read_link(file?.path()) else {
            continue;
        };
        let what = what.to_string_lossy().into_owned();
        if what.contains("bpf") {
            *all.entry(what).or_default() += 1;
        }
    }
    Ok(all)
}

/// How many entries about one of these interfaces an agent has: ports of bridges, records,
/// counters of what is in none.
pub fn entries(agent: &Agent, interfaces: &[u32]) -> Result<BTreeMap<&'static str, usize>> {
    let count = |keys: Vec<Vec<u8>>, at: usize| {
        let known = |key: &&Vec<u8>| {
            let index = key.get(at..at + 4).and_then(|index| index.try_into().ok());
            index.is_some_and(|index| interfaces.contains(&u32::from_ne_bytes(index)))
        };
        keys.iter().filter(known).count()
    };
    let ports: HashMap<_, [u8; 4], u32> = HashMap::try_from(map(agent, "PORTS")?)?;
    let hops: HashMap<_, [u8; size_of::<HopKey>()], [u8; size_of::<HopRecord>()]> =
        HashMap::try_from(map(agent, "HOPS")?)?;
    let none: PerCpuHashMap<_, [u8; size_of::<UnattributedKey>()], [u8; size_of::<Counter>()]> =
        PerCpuHashMap::try_from(map(agent, "UNATTRIBUTED")?)?;
    Ok(BTreeMap::from([
        ("PORTS", count(read(ports.keys())?, 0)),
        (
            "HOPS",
            count(read(hops.keys())?, offset_of!(HopKey, ifindex)),
        ),
        (
            "UNATTRIBUTED",
            count(read(none.keys())?, offset_of!(UnattributedKey, ifindex)),
        ),
    ]))
}

fn read<const N: usize>(
    keys: impl Iterator<Item = Result<[u8; N], MapError>>,
) -> Result<Vec<Vec<u8>>> {
    let all = keys.map(|key| key.map(Vec::from));
    Ok(all.collect::<Result<_, _>>()?)
}

fn process(agent: &Agent, what: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{what}", agent.pid()))
}

/// The agent's map of this name.
fn map(agent: &Agent, name: &str) -> Result<Map> {
    for file in fs::read_dir(process(agent, "fdinfo"))? {
        let text = fs::read_to_string(file?.path()).unwrap_or_default();
        let id = text.lines().find_map(|line| line.strip_prefix("map_id:"));
        let Some(id) = id.and_then(|id| id.trim().parse().ok()) else {
            continue;
        };
        if MapInfo::from_id(id)?.name_as_str() == Some(name) {
            return Ok(Map::from_map_data(MapData::from_id(id)?)?);
        }
    }
    bail!("the agent has no map {name}")
}
