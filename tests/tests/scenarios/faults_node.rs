//! What befalls a node and the agent on it: a link that goes down, memory that runs out, a second
//! agent by mistake.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::{Agent, Lab, recovers};
use serde_json::json;

use crate::common::{PATIENCE, closed, eventually, get, lab, synced};
use crate::faults_api::{Echoes, told};
use crate::identity::Since;
use crate::lifecycle::programs;
use crate::nat::describe;

/// A fetch from the VM, outside of the cluster: what the server's socket saw is what conntrack and
/// the record say.
fn fetch(lab: &Lab, agent: &Agent) -> Result<()> {
    let web = lab.pod("web")?;
    let vm = lab.topology().vm.ip();
    let seen = get(&web.netns(), &format!("http://{vm}:8080/"))?;
    let text = |name: &str| {
        seen[name]
            .as_str()
            .context("no such end")
            .map(str::to_owned)
    };
    let (local, peer) = (text("local")?, text("peer")?);
    let record = closed(agent, "the fetch", |record| {
        let tuple = record.tuple("/nat/original");
        tuple.is_some_and(|(source, _)| source.to_string() == local)
    })?;
    assert_eq!(record.path(), [web.host_interface(), "cbr0", "eth0"]);
    let told = record.remote_sees().context("no view from the far end")?;
    assert_eq!(told.to_string(), peer);
    let tracked = lab.conntrack(0)?;
    let entry = tracked.iter().find(|entry| {
        let original = entry.original;
        format!("{}:{}", original.src, original.sport) == local
    });
    let translated = entry.context("no entry of conntrack")?.translated();
    assert_eq!(format!("{}:{}", translated.src, translated.sport), peer);
    Ok(())
}

/// The role of an interface, as `nodescope node` tells it.
fn role(agent: &Agent, interface: &str) -> Result<String> {
    let node = describe(agent)?;
    let interfaces = node["interfaces"].as_array().context("no interfaces")?;
    let found = interfaces.iter().find(|one| one["name"] == interface);
    let found = found.with_context(|| format!("no {interface} in {node}"))?;
    Ok(found["role"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn scenario_34_an_uplink_that_goes_down_and_comes_back_is_counted_on() -> Result<()> {
    let Some(lab) = lab("faulteth")? else {
        return Ok(());
    };
    let agent = crate::common::agent(&lab, 0)?;
    let (node, web) = (lab.node(0), lab.pod("web")?);
    let since = Since::still(&lab, &agent)?;
    let echoes = Echoes::begin(&lab, "web2")?;
    fetch(&lab, &agent)?;
    let uplink = role(&agent, "eth0")?;

    // The kernel takes the routes along, and gives back only the subnet's.
    let routes = node.tool(&["ip", "route", "show", "default"], "")?;
    let routes = String::from_utf8(routes.stdout)?;
    let routes: Vec<_> = routes.lines().map(str::trim).collect();
    ensure!(!routes.is_empty(), "no default route");
    node.ip(&["link set eth0 down".to_owned()])?;
    let vm = lab.topology().vm.ip().to_string();
    let ping = ["ping", "-q", "-c", "3", "-i", "0.05", "-W", "1", &vm];
    ensure!(!web.run(ping)?.status.success(), "the link is up");
    eventually("the route is known to be gone", || {
        let notes = describe(&agent)?["notes"].to_string();
        ensure!(notes.contains("no default route now"), "{notes}");
        Ok(true)
    })?;
    assert_eq!(role(&agent, "eth0")?, uplink);
    assert_eq!(programs(&lab, "eth0")?, [1, 1]);

    // Packets leave as soon as they can: nobody waits for the agent.
    let up = ["link set eth0 up".to_owned()].into_iter();
    let lines = routes.iter().map(|route| format!("route replace {route}"));
    node.ip(&up.chain(lines).collect::<Vec<_>>())?;
    fetch(&lab, &agent)?;
    recovers("the uplink is down", || {
        let notes = describe(&agent)?["notes"].to_string();
        Ok(!notes.contains("no default route now"))
    })?;
    assert_eq!(role(&agent, "eth0")?, uplink);
    let echoes = echoes.end()?;
    since.agree(&lab, &agent)?;
    told(&agent, echoes)
}

/// A group of processes with its own limit of memory, within this process's own; gone on drop.
struct Memory {
    folder: PathBuf,
    /// The file with the limit, and the one that counts processes that were killed for it.
    files: [&'static str; 2],
}

impl Memory {
    /// None, and why, where this machine has no such groups or lets nobody make one.
    fn new(name: &str) -> Result<Self, String> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        // cgroups(7): `number:controllers:path`, controllers empty for version 2.
        let (first, second) = ("memory", "");
        let (files, kind, path) = groups
            .lines()
            .filter_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (controllers, path) = (parts.next()?, parts.next()?);
                if controllers.split(',').any(|one| one == first) {
                    return Some((
                        ["memory.limit_in_bytes", "memory.oom_control"],
                        "cgroup",
                        path,
                    ));
                }
                (controllers == second).then_some((
                    ["memory.max", "memory.events"],
                    "cgroup2",
                    path,
                ))
            })
            .min_by_key(|(_, kind, _)| kind.len())
            .ok_or("this machine has no groups of processes")?;
        let mut mounted = mounts.lines().filter_map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let [_, at, found, options, ..] = words[..] else {
                return None;
            };
            let limits = kind == "cgroup2" || options.split(',').any(|one| one == first);
            (found == kind && limits).then(|| PathBuf::from(at))
        });
        let root = mounted.next().ok_or("they are mounted nowhere")?;
        let folder = root.join(path.trim_start_matches('/')).join(name);
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let made = Self { folder, files };
        match made.folder.join(made.files[0]).exists() {
            true => Ok(made),
            false => Err("its processes cannot be limited in memory".to_owned()),
        }
    }

    fn path(&self, file: &str) -> String {
        self.folder.join(file).display().to_string()
    }

    /// Takes away all the memory that its processes do not use right now. Version 1 refuses a limit
    /// below what is used.
    fn tighten(&self) -> Result<()> {
        if self.files[0] == "memory.max" {
            return Ok(fs::write(self.path("memory.max"), "1M")?);
        }
        eventually("the limit is taken", || {
            let used = fs::read_to_string(self.path("memory.usage_in_bytes"))?;
            let used: u64 = used.trim().parse()?;
            fs::write(self.path(self.files[0]), used.to_string())?;
            Ok(true)
        })
    }

    /// How many of its processes the kernel killed for want of memory.
    fn killed(&self) -> Result<u64> {
        let text = fs::read_to_string(self.path(self.files[1]))?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(line.context("no oom_kill")?.trim().parse()?)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // The last process of it may be about to go.
        let _ = eventually("the group is removed", || {
            fs::remove_dir(&self.folder)?;
            Ok(true)
        });
    }
}

/// Ends an agent as the kernel does that has no memory left, or as near as this machine allows.
fn starve(lab: &Lab, agent: &mut Agent, memory: Option<&Memory>) -> Result<()> {
    let (Some(memory), Some(api)) = (memory, lab.api()) else {
        return agent.kill9();
    };
    memory.tighten()?;
    // Objects that it has to remember.
    for number in 0..20_000 {
        if !agent.is_running() {
            break;
        }
        api.store().apply(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("much-{number}"), "namespace": "default"},
            "spec": {"nodeName": "elsewhere", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running"}
        }))?;
    }
    let status = agent.process().wait(PATIENCE)?;
    let status = status.context("it has memory enough")?;
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    ensure!(signal == Some(9), "{status}: {}", agent.log());
    ensure!(memory.killed()? == 1, "it was killed for something else");
    Ok(())
}

#[test]
fn scenario_34_an_agent_without_memory_is_killed_and_the_next_counts_on() -> Result<()> {
    let Some(lab) = lab("faultoom")? else {
        return Ok(());
    };
    let memory = match Memory::new(lab.netns("agent").name()) {
        Ok(memory) => Some(memory),
        Err(why) => {
            println!("skipped: a limit of memory, SIGKILL stands in for it: {why}");
            None
        }
    };
    let bpffs = lab.bpffs()?.display().to_string();
    let flags = ["--flow-interval", "300ms", "--bpffs", &bpffs];
    let into = memory.as_ref().map(|group| group.path("cgroup.procs"));
    let enter = format!("echo $$ > {} && exec \"$@\"", into.unwrap_or_default());
    let under = ["sh", "-c", &*enter, "sh"];
    let under = if memory.is_some() { &under[..] } else { &[] };
    let mut first = lab.start_agent_under(0, under, &flags)?;
    synced(&first)?;
    let since = Since::still(&lab, &first)?;
    let echoes = Echoes::begin(&lab, "api")?;
    eventually("echoes are told", || {
        Ok(!crate::common::records(&first)?.is_empty())
    })?;
    starve(&lab, &mut first, memory.as_ref())?;
    // Nobody looks at this one, and it is told.
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    get(&web.netns(), &format!("http://{}:8080/", web2.ip()))?;

    let (from, to) = (web.ip().to_string(), web2.ip().to_string());
    let mut second = None;
    recovers("the agent is killed", || {
        if second.is_none() {
            second = Some(lab.start_agent(0, &flags)?);
        }
        let agent = second.as_ref().context("no agent")?;
        let all = crate::common::records(agent)?;
        let of_the_two =
            |one: &&crate::common::Record| crate::common::between(one, &from, &to, 8080);
        Ok(all
            .iter()
            .filter(of_the_two)
            .any(|one| one.event() == "close"))
    })?;
    let second = second.context("no agent")?;
    synced(&second)?;
    closed(&second, "the connection between the two", |record| {
        crate::common::between(record, &from, &to, 8080)
    })?;
    let echoes = echoes.end()?;
    since.agree(&lab, &second)?;
    told(&second, echoes)
}

/// Without a BPF file system no table is there to be locked; `restart_pins` has the other case.
#[test]
fn scenario_34_a_second_agent_says_so_and_leaves() -> Result<()> {
    let Some(lab) = lab("faulttwo")? else {
        return Ok(());
    };
    let mut first = crate::common::agent(&lab, 0)?;
    let since = Since::still(&lab, &first)?;
    let echoes = Echoes::begin(&lab, "api")?;
    let mut second = lab.launch_agent(0, &[])?;
    let status = second.process().wait(PATIENCE)?;
    let status = status.with_context(|| format!("it stays: {}", second.log()))?;
    let said = second.log();
    assert_eq!(status.code(), Some(1), "{said}");
    ensure!(said.contains("an agent serves it already"), "{said}");
    assert!(first.is_running() && first.socket().exists());
    assert_eq!(programs(&lab, "eth0")?, [1, 1]);
    fetch(&lab, &first)?;
    let echoes = echoes.end()?;
    since.agree(&lab, &first)?;
    told(&first, echoes)
}
