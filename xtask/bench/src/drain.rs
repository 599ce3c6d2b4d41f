//! How long the agent takes to read 100,000 records out of the kernel and to work out what each
//! gained.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use nodescope::datapath;
use nodescope::engine::{Engine, Settings};
use nodescope::flow::Timeouts;
use nodescope::node::InterfaceFilter;

use crate::figure::{Figure, Goal, Report};
use crate::hooks::floor::Floor;
use crate::hooks::frames::{self, Context};
use crate::stop::Stop;

const RECORDS: u32 = 100_000;

/// Measures drains of records that are new, that gained a packet each, and that did not change.
///
/// # Errors
/// The kernel refuses the programs, or the user wants an end.
pub fn measure(rounds: u32, floor: &Path, stop: &Stop, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("drains of {RECORDS} records");
    let mut floor = Floor::load(floor)?;
    let (mut new, mut changed, mut unchanged) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        stop.check()?;
        let mut engine = engine()?;
        a_packet_each(&mut floor, &mut engine)?;
        new.push(drain(&mut engine));
        a_packet_each(&mut floor, &mut engine)?;
        changed.push(drain(&mut engine));
        unchanged.push(drain(&mut engine));
        let mut records = 0;
        engine.datapath().for_each(|_, _| records += 1)?;
        ensure!(records == RECORDS, "{records} records instead of {RECORDS}");
    }
    let goal = Goal::AtMost(50.0);
    let rate = changed.iter().map(|ms| f64::from(RECORDS) / ms / 1000.0);
    let rate = rate.collect();
    report.add(Figure::new("drain_ms_100k", "ms", changed).goal(goal));
    report.add(Figure::new("drain_unchanged_ms_100k", "ms", unchanged));
    report.add(Figure::new("drain_new_ms_100k", "ms", new));
    report.add(Figure::new("drain_million_records_per_s", "M/s", rate));
    report.note(
        "Drains: of 100,000 records that gained a packet each since the last one (drain_ms_100k), \
         of as many without a change, and of as many that are new.",
    );
    Ok(())
}

fn engine() -> anyhow::Result<Engine> {
    let settings = Settings {
        node: Arc::from("bench"),
        datapath: datapath::Settings {
            max_connections: 65_536,
            nat: true,
            dns_questions: false,
            method: None,
            pinning: None,
        },
        filter: InterfaceFilter::new(&[], &[])?,
        timeouts: Timeouts::default(),
    };
    Engine::load(settings).context("loading the programs")
}

/// Each of the conversations has one packet more.
fn a_packet_each(floor: &mut Floor, engine: &mut Engine) -> anyhow::Result<()> {
    let datapath = engine.datapath();
    let program = datapath
        .program("port_ingress")
        .context("no program port_ingress")?;
    floor.run_varied(program, &frames::udp(64), Context::default(), 0, RECORDS)?;
    Ok(())
}

/// Milliseconds of one drain.
fn drain(engine: &mut Engine) -> f64 {
    let start = Instant::now();
    engine.drain();
    start.elapsed().as_secs_f64() * 1000.0
}
