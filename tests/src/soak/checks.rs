//! What must hold whenever everything is at rest.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Soak;
use super::agents::Node;
use super::samples::takes;
use crate::identity::{Counted, Since, attributed, sample};
use crate::lab::{Lab, eventually, wait_for};

/// Open files that may come and go: connections to the API server, of clients, of scrapes.
const FILES: usize = 12;
/// Records of the kernel's table that may remain at rest: neighbours' chatter.
const ENTRIES: f64 = 64.0;
/// Memory at rest may grow by this, in MiB, and a quarter: allocators keep what they had.
const MEMORY: f64 = 12.0;
/// How long records may take to be told, at most: far more than they do.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the agents were at rest, for the first time.
pub struct Baseline {
    nodes: Vec<AtRest>,
}

struct AtRest {
    since: Since,
    /// What records said then, to be taken from what they say later.
    sums: Counted,
    attributed: Counted,
    files: usize,
    pins: BTreeSet<String>,
    /// Resident memory of each time at rest, in MiB.
    memory: Vec<f64>,
}

impl Baseline {
    /// Waits for a rest, and takes it.
    pub fn take(soak: &mut Soak) -> Result<Self> {
        rest(soak)?;
        let mut nodes = Vec::new();
        for node in &soak.nodes {
            let since = Since::still_on(&soak.lab, node.index(), node.its_agent())?;
            let (sums, attributed) = told(node, &since, None)?;
            let (memory, files) = takes(node.its_agent().pid())?;
            nodes.push(AtRest {
                since,
                sums,
                attributed,
                files,
                pins: pins(&soak.lab)?,
                memory: vec![memory],
            });
        }
        work(soak);
        Ok(Self { nodes })
    }

    /// Waits for a rest, and compares.
    pub fn check(&mut self, soak: &mut Soak) -> Result<()> {
        rest(soak)?;
        for (node, then) in soak.nodes.iter().zip(&mut self.nodes) {
            then.compare(soak, node)
                .with_context(|| format!("node{}", node.index()))?;
        }
        soak.story.tell("at rest: everything holds".to_owned());
        work(soak);
        Ok(())
    }

    /// Whether memory grew from the first third of the rests to the last.
    pub fn memory(&self) -> Result<()> {
        for (index, node) in self.nodes.iter().enumerate() {
            let all = &node.memory;
            let third = all.len().div_ceil(3);
            let most = |part: &[f64]| part.iter().copied().fold(0.0, f64::max);
            let (first, last) = (most(&all[..third]), most(&all[all.len() - third..]));
            ensure!(
                last <= first * 1.25 + MEMORY,
                "node{index}: memory at rest grew from {first:.1} to {last:.1} MiB: {all:.1?}"
            );
        }
        Ok(())
    }
}

impl AtRest {
    fn compare(&mut self, soak: &Soak, node: &Node) -> Result<()> {
        let (lab, agent) = (&soak.lab, node.its_agent());
        // What hooks saw is what interfaces counted.
        self.since.agree(lab, agent)?;
        // What is in records is what hooks saw, less what they could put into none.
        told(node, &self.since, Some((&self.sums, &self.attributed)))?;
        let followed = node.followed();
        ensure!(followed.broken.is_empty(), "{:?}", followed.broken);
        // One that is killed between a portion and its note tells that portion again.
        ensure!(
            followed.again.is_empty() || node.killed() > 0,
            "told again: {:?}",
            followed.again
        );
        // Nothing of pods that are gone.
        eventually("metrics of pods that are gone to go", || {
            let page = agent.metrics()?;
            let left = soak
                .gone
                .iter()
                .find(|name| page.contains(&format!("\"{name}\"")));
            ensure!(left.is_none(), "{left:?} is in /metrics still");
            let entries = sample(&page, "nodescope_flow_table_entries", &[])?;
            let entries = entries.context("no nodescope_flow_table_entries")?;
            ensure!(entries <= ENTRIES, "{entries} records at rest");
            Ok(true)
        })?;
        let mut files = 0;
        wait_for("open files to be closed", PATIENCE, || {
            files = takes(agent.pid()).map_or(0, |(_, files)| files);
            files <= self.files + FILES
        })
        .with_context(|| format!("{files} open files, {} at first", self.files))?;
        let pins = pins(lab)?;
        ensure!(
            pins == self.pins,
            "pinned: {:?}",
            pins.symmetric_difference(&self.pins).collect::<Vec<_>>()
        );
        self.memory.push(takes(agent.pid())?.0);
        Ok(())
    }
}

/// Ends what was added, and stops to make connections.
fn rest(soak: &mut Soak) -> Result<()> {
    soak.nodes.iter().for_each(|node| node.probe(false));
    for name in std::mem::take(&mut soak.extra) {
        soak.gone
            .push(soak.lab.pod(&name)?.host_interface().to_owned());
        soak.lab.remove_pod(&name)?;
    }
    // An agent that came with another table, or knows less than it should, catches up.
    soak.alive()
}

fn work(soak: &Soak) {
    soak.nodes.iter().for_each(|node| node.probe(true));
}

/// Waits until records say what hooks saw, since `before` (both may differ by the same from the
/// beginning on); both.
fn told(
    node: &Node,
    since: &Since,
    before: Option<(&Counted, &Counted)>,
) -> Result<(Counted, Counted)> {
    let interfaces = since.interfaces();
    let mut found = None;
    let mut last = String::new();
    let outcome = wait_for("records to say what hooks saw", PATIENCE, || {
        let page = node.its_agent().metrics();
        let expected = page.and_then(|page| attributed(&page, interfaces));
        let Ok(expected) = expected else {
            return false;
        };
        let mut sums = node.followed().sums;
        sums.retain(|name, _| interfaces.contains(name));
        let of = |counted: &Counted, then: Option<&Counted>| -> Vec<[u64; 4]> {
            let value = |all: &Counted, name: &String| all.get(name).copied().unwrap_or_default();
            let more = |name| {
                let (now, then) = (value(counted, name), then.map(|all| value(all, name)));
                let then = then.unwrap_or_default();
                std::array::from_fn(|at| now[at].wrapping_sub(then[at]))
            };
            interfaces.iter().map(more).collect()
        };
        let ours = of(&sums, before.map(|both| both.0));
        let wanted = of(&expected, before.map(|both| both.1));
        let agree = ours == wanted;
        last = format!("{interfaces:?}: records {ours:?}, hooks {wanted:?}");
        found = Some((sums, expected));
        agree
    });
    outcome.with_context(|| last)?;
    found.context("nothing was read")
}

/// Everything that is pinned, without the folder's own path.
fn pins(lab: &Lab) -> Result<BTreeSet<String>> {
    let root = lab.bpffs()?;
    let mut found = BTreeSet::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
            found.insert(relative(&entry.path(), &root));
        }
    }
    Ok(found)
}

fn relative(path: &Path, root: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    path.display().to_string()
}
