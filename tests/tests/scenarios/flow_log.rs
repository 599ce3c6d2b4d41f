//! The flow log on disk, read back by `observe --input-file` and held against the live stream:
//! rotated, moved, deleted, on a disk that is full, filtered, and told on by the next agent.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use nodescope_tests::lab::{Agent, Lab, Pod, Proc, binary};
use rustix::process::Signal;

use crate::common::{PATIENCE, Record, eventually, get, lab, metric, number, synced};
use crate::restart::transmitted;

/// Connections during which the log rotates: some 5 KB of records each.
const MANY: usize = 40;

/// The smallest size to rotate at, and what no line reaches.
const SIZE: u64 = 64 * 1024;

#[test]
fn the_flow_log_has_what_the_live_stream_has() -> Result<()> {
    let Some(lab) = lab("flowlog")? else {
        return Ok(());
    };
    // On a node each.
    thread::scope(|scope| {
        let moved = scope.spawn(|| nothing_is_lost_by_rotation_moving_and_deleting(&lab));
        let full = a_full_disk_costs_what_is_counted_and_no_more(&lab);
        match moved.join() {
            Ok(moved) => moved.and(full),
            Err(_) => bail!("a thread panicked"),
        }
    })
}

/// An agent that writes its log to `file`, and a client that follows it from the first record on.
fn start(lab: &Lab, node: usize, file: &Path, extra: &[&str]) -> Result<(Agent, Proc)> {
    let file = file.to_str().context("a path of letters")?;
    let flags = ["--flow-interval", "300ms", "--flow-log", file];
    let agent = lab.start_agent(node, &[&flags, extra].concat())?;
    synced(&agent)?;
    let nodescope = binary("NODESCOPE_BIN", "nodescope")?;
    let server = format!("unix://{}", agent.socket().display());
    let follow = ["observe", "--all", "--follow", "-o", "json", "--server"];
    let argv = [&[nodescope.as_str()], &follow[..], &[server.as_str()]].concat();
    let following = lab.spawn(&lab.node(node), argv)?;
    Ok((agent, following))
}

/// One record a line, in an order that does not depend on when it was written.
fn sorted(text: &str) -> Result<Vec<String>> {
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().map(|line| {
        let value: serde_json::Value = serde_json::from_str(line)?;
        Ok(value.to_string())
    });
    let mut lines: Vec<String> = lines.collect::<Result<_>>()?;
    lines.sort();
    Ok(lines)
}

/// What `observe --input-file -` reads back from these files.
fn read_back(lab: &Lab, files: &[PathBuf]) -> Result<Vec<String>> {
    let folder = files.first().and_then(|file| file.parent());
    let folder = folder.and_then(Path::file_name).context("no file")?;
    let all = lab.run_dir().join(folder).with_extension("all");
    let mut text = Vec::new();
    for file in files {
        text.extend(fs::read(file).with_context(|| file.display().to_string())?);
    }
    fs::write(&all, text)?;
    let out = Command::new(binary("NODESCOPE_BIN", "nodescope")?)
        .args(["observe", "--input-file", "-", "--all", "-o", "json"])
        .stdin(File::open(&all)?)
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success() && said.is_empty(), "{said}");
    sorted(&String::from_utf8(out.stdout)?)
}

/// The files of a folder, and that none of them or of their lines is too long.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let text = fs::read(&path)?;
        ensure!(text.len() as u64 <= SIZE, "{}", path.display());
        ensure!(text.is_empty() || text.ends_with(b"\n"), "half a line");
        files.push(path);
    }
    Ok(files)
}

/// Records of connections to the HTTP server of a pod.
fn http(lines: &[String], server: &Pod) -> Result<Vec<Record>> {
    let mut all = Vec::new();
    for line in lines {
        all.push(Record(serde_json::from_str(line)?));
    }
    let name = server.name();
    all.retain(|record| {
        let port = number(record.flow("/l4/TCP/destination_port"));
        port == Some(8080) && record.flow("/destination/pod_name") == name.as_str()
    });
    Ok(all)
}

fn closed(lines: &[String], server: &Pod) -> Result<usize> {
    let all = http(lines, server)?;
    Ok(all.iter().filter(|one| one.event() == "close").count())
}

fn lost(agent: &Agent) -> Result<usize> {
    let lost = metric(
        agent,
        "nodescope_events_lost_total",
        &[("kind", "flow_log")],
    )?;
    Ok(lost.context("no such metric")? as usize)
}

/// Waits until the log has `count` closed connections, and just what the client was shown.
fn agree(lab: &Lab, following: &Proc, folder: &Path, server: &Pod, count: usize) -> Result<()> {
    eventually("log and live stream agree", || {
        let live = sorted(&following.stdout())?;
        let logged = read_back(lab, &files(folder)?)?;
        let closed = closed(&live, server)?;
        ensure!(closed == count, "{closed} connections of {count}");
        let (shown, written) = (live.len(), logged.len());
        ensure!(live == logged, "{shown} records shown, {written} written");
        Ok(true)
    })
}

fn nothing_is_lost_by_rotation_moving_and_deleting(lab: &Lab) -> Result<()> {
    let folder = lab.run_dir().join("log");
    fs::create_dir(&folder)?;
    let file = folder.join("flows.jsonl");
    let limits = ["--flow-log-max-size", "64KiB", "--flow-log-max-files", "50"];
    let (mut agent, following) = start(lab, 0, &file, &limits)?;
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    let url = format!("http://{}:8080/", web2.ip());

    for _ in 0..MANY {
        get(&web.netns(), &url)?;
    }
    agree(lab, &following, &folder, &web2, MANY)?;
    ensure!(folder.join("flows.jsonl.2").exists(), "it did not rotate");

    // Deleted; what was in it is still to be read under another name.
    fs::hard_link(&file, folder.join("deleted"))?;
    fs::remove_file(&file)?;
    get(&web.netns(), &url)?;
    agree(lab, &following, &folder, &web2, MANY + 1)?;
    ensure!(file.exists(), "it was not made anew");

    // Moved as logrotate does it: after the signal, without any flow, the old file is let go.
    let moved = folder.join("moved");
    fs::rename(&file, &moved)?;
    agent.process().signal(Signal::HUP)?;
    let descriptors = format!("/proc/{}/fd", agent.pid());
    eventually("the agent has let the file go", || {
        let open = fs::read_dir(&descriptors)?.flatten();
        let open: Vec<_> = open.flat_map(|one| fs::read_link(one.path())).collect();
        Ok(open.contains(&file) && !open.contains(&moved))
    })?;
    get(&web.netns(), &url)?;
    agree(lab, &following, &folder, &web2, MANY + 2)?;
    assert_eq!(lost(&agent)?, 0);
    agent.stop()
}

/// How many of the wanted records are in the log: all that is there, each once.
fn logged(lab: &Lab, file: &Path, wanted: &[Record]) -> Result<usize> {
    let mut wanted: Vec<_> = wanted.iter().map(|one| one.0.to_string()).collect();
    let logged = read_back(lab, &[file.to_owned()])?;
    for line in &logged {
        let found = wanted.iter().position(|one| one == line);
        wanted.remove(found.with_context(|| format!("not shown, or twice: {line}"))?);
    }
    Ok(logged.len())
}

fn a_full_disk_costs_what_is_counted_and_no_more(lab: &Lab) -> Result<()> {
    let folder = lab.small_disk(256 * 1024)?;
    let (file, filler) = (folder.join("flows.jsonl"), folder.join("filler"));
    let bpffs = lab.bpffs()?;
    let bpffs = ["--bpffs", bpffs.to_str().context("a path of letters")?];
    let include = ["--flow-log-include", "--to-port 8080"];
    let exclude = ["--flow-log-exclude", "--protocol icmp"];
    let (mut agent, following) = start(lab, 1, &file, &[bpffs, include, exclude].concat())?;
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let url = format!("http://{}:8080/", api.ip());
    let far = web.ip().to_string();
    let mut ping = lab.spawn(&api.netns(), ["ping", "-q", "-i", "0.02", &far])?;

    // Fetches, and waits until each record is accounted for: how many are written and lost.
    let mut fetched = 0;
    let mut fetch = |count: usize| -> Result<(usize, usize)> {
        for _ in 0..count {
            get(&web.netns(), &url)?;
        }
        fetched += count;
        let mut outcome = (0, 0);
        eventually("each record is written or counted as lost", || {
            let live = sorted(&following.stdout())?;
            ensure!(closed(&live, &api)? == fetched, "connections are open");
            let wanted = http(&live, &api)?;
            outcome = (logged(lab, &file, &wanted)?, lost(&agent)?);
            ensure!(outcome.0 + outcome.1 == wanted.len(), "{outcome:?}");
            Ok(true)
        })?;
        Ok(outcome)
    };
    let (before, none) = fetch(2)?;
    assert_eq!(none, 0, "lost before the disk was full");
    ensure!(fs::write(&filler, [0; 512 * 1024]).is_err(), "it has room");
    let (full, lost) = fetch(5)?;
    ensure!(lost > 0 && full >= before, "{full} written, {lost} lost");
    assert_eq!(agent.http("/readyz")?.0, 200);
    fs::remove_file(&filler)?;
    let (after, still) = fetch(2)?;
    ensure!(after > full, "nothing is written though there is room");
    assert_eq!(still, lost, "lost with room on the disk");

    // Echoes were left out. The next agent, which writes all, does not tell them once more.
    let echo = |record: &Record| record.flow("/l4/ICMPv4").is_object();
    let shown = || -> Result<Vec<Record>> {
        let text = following.stdout();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let all = whole
            .lines()
            .map(|line| Ok(Record(serde_json::from_str(line)?)));
        let mut all: Vec<Record> = all.collect::<Result<_>>()?;
        all.retain(&echo);
        Ok(all)
    };
    eventually("echoes are told", || Ok(shown()?.len() >= 2))?;
    agent.stop()?;
    let told = |record: &Record, pointer: &str| number(record.ext(pointer)).context("no count");
    let shown = told(
        shown()?.last().context("no echo")?,
        "/forward/packets_total",
    )?;
    let next = lab.start_agent(1, &[&["--flow-interval", "300ms"], &bpffs[..]].concat());
    let mut next = next?;
    let echoes = |agent: &Agent| -> Result<Vec<Record>> {
        Ok(agent
            .flows()?
            .into_iter()
            .map(Record)
            .filter(&echo)
            .collect())
    };
    eventually("the next agent tells echoes", || {
        Ok(echoes(&next)?.len() >= 2)
    })?;
    ping.end_with(Signal::INT, PATIENCE)?;
    next.stop()?;
    let told_on = echoes(&next)?;
    let first = told_on.first().context("no echo")?;
    ensure!(first.event() == "update", "{}", first.0);
    let before = told(first, "/forward/packets_total")? - told(first, "/forward/packets")?;
    ensure!(before >= shown, "{before} of {shown} told before");
    let mut sum = before;
    for record in &told_on {
        sum += told(record, "/forward/packets")?;
    }
    assert_eq!(sum, transmitted(&ping.stdout())?[0]);
    Ok(())
}
