//! Clocks: a time of day that is set while the agent runs, and an agent whose own clock is not the
//! kernel's. The machine's clock stays as it is.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::Agent;

use crate::common::{Record, eventually, lab, records, synced};
use crate::faults_api::{Echoes, is_named, told};
use crate::identity::Since;

const DAY: u64 = 24 * 60 * 60;

/// What makes a process see another time of day (Debian's package `faketime`).
fn library() -> Option<PathBuf> {
    let folders = ["x86_64-linux-gnu", "aarch64-linux-gnu"];
    let files = folders.map(|arch| format!("/usr/lib/{arch}/faketime/libfaketime.so.1"));
    files
        .map(PathBuf::from)
        .into_iter()
        .find(|file| file.exists())
}

/// A moment of a record, in seconds since the epoch.
fn seconds(value: &serde_json::Value) -> Result<f64> {
    let text = value.as_str().context("no time")?;
    let time: jiff::Timestamp = text.parse()?;
    Ok(time.as_millisecond() as f64 / 1000.0)
}

/// How far a record's own time, and the beginning that it tells of its connection, are from what
/// this machine's clock says.
fn off(record: &Record) -> Result<[f64; 2]> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    Ok([
        seconds(record.flow("/time"))? - now,
        seconds(record.ext("/started"))? - now,
    ])
}

/// Waits for a newly written record of the echoes; `bounds` are those of both of [`off`], in
/// seconds, for a machine that is as slow as it likes.
fn timed(agent: &Agent, what: &str, around: f64) -> Result<()> {
    eventually(what, || {
        let all = records(agent)?;
        let last = all
            .iter()
            .rev()
            .find(|one| one.flow("/l4/ICMPv4").is_object());
        let found = off(last.context("no echo")?)?;
        ensure!(
            found.iter().all(|off| (off - around).abs() < 600.0),
            "{found:?} seconds off, not {around}"
        );
        Ok(true)
    })
}

/// The echoes are one connection from the first to the last, whatever the clock says meanwhile.
fn is_one(agent: &Agent) -> Result<()> {
    let all = records(agent)?;
    let echoes = all.iter().filter(|one| one.flow("/l4/ICMPv4").is_object());
    let ids: std::collections::BTreeSet<_> = echoes
        .map(|one| one.ext("/connection").to_string())
        .collect();
    ensure!(ids.len() == 1, "{} connections instead of one", ids.len());
    Ok(())
}

#[test]
fn scenario_34_a_time_of_day_that_is_set_moves_records_and_no_count() -> Result<()> {
    let Some(lab) = lab("faultclock")? else {
        return Ok(());
    };
    let Some(library) = library() else {
        println!("skipped: libfaketime is not installed");
        return Ok(());
    };
    let offset = lab.run_dir().join("offset");
    let set = |text: &str| -> Result<()> {
        let new = offset.with_extension("new");
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(&new, &offset)?)
    };
    set("+0\n")?;
    let words = [
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", offset.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        "NO_FAKE_STAT=1".to_owned(),
    ];
    let mut under = vec!["env"];
    under.extend(words.iter().map(String::as_str));
    let agent = lab.start_agent_under(0, &under, &["--flow-interval", "300ms"])?;
    synced(&agent)?;
    let since = Since::still(&lab, &agent)?;
    let echoes = Echoes::begin(&lab, "api")?;
    timed(&agent, "records by the right clock", 0.0)?;
    set(&format!("+{DAY}\n"))?;
    timed(&agent, "records of tomorrow", DAY as f64)?;
    is_named(&lab, &agent)?;
    set(&format!("-{DAY}\n"))?;
    timed(&agent, "records of yesterday", -(DAY as f64))?;
    is_named(&lab, &agent)?;
    let echoes = echoes.end()?;
    since.agree(&lab, &agent)?;
    told(&agent, echoes)?;
    is_one(&agent)
}

/// In a time namespace the agent's clock is a day ahead of the one that the kernel side reads.
#[test]
fn scenario_34_an_agent_in_a_time_namespace_tells_the_right_times() -> Result<()> {
    let Some(lab) = lab("faulttime")? else {
        return Ok(());
    };
    if !Path::new("/proc/self/timens_offsets").exists() {
        println!("skipped: this kernel has no time namespaces");
        return Ok(());
    }
    let day = DAY.to_string();
    let under = ["unshare", "--time", "--monotonic", &day];
    let agent = lab.start_agent_under(0, &under, &["--flow-interval", "300ms"])?;
    synced(&agent)?;
    let since = Since::still(&lab, &agent)?;
    let echoes = Echoes::begin(&lab, "api")?;
    timed(&agent, "records by the right clock", 0.0)?;
    is_named(&lab, &agent)?;
    let echoes = echoes.end()?;
    since.agree(&lab, &agent)?;
    told(&agent, echoes)?;
    is_one(&agent)
}
