//! What happened in a soak, as text, JSON and drawing.

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::plot;
use super::samples::Sample;

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Seconds since the beginning.
    pub at: f64,
    /// What.
    pub what: String,
    /// Whether it was a fault, which the drawing shows.
    pub fault: bool,
}

/// All that happened, in order; told as it happens.
#[derive(Debug)]
pub struct Story {
    start: Instant,
    events: Mutex<Vec<Event>>,
}

impl Story {
    /// Begins at this moment.
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            events: Mutex::default(),
        }
    }

    /// Seconds from the beginning to a moment.
    pub fn at(&self, moment: Instant) -> f64 {
        moment.saturating_duration_since(self.start).as_secs_f64()
    }

    /// Notes something.
    pub fn tell(&self, what: String) {
        self.note(what, false);
    }

    /// Notes a fault.
    pub fn fault(&self, what: String) {
        self.note(what, true);
    }

    fn note(&self, what: String, fault: bool) {
        let at = self.at(Instant::now());
        println!("{at:7.1} s  {what}");
        self.lock().push(Event { at, what, fault });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was measured of a node's agents.
#[derive(Debug, Serialize)]
pub struct Track {
    /// The node's number.
    pub node: usize,
    /// Second by second.
    pub samples: Vec<Sample>,
    /// When a connection began, and how long after that its first record was in the flow log;
    /// both in seconds.
    pub lags: Vec<(f64, f64)>,
}

impl Track {
    /// Nothing yet.
    pub fn new(node: usize) -> Self {
        Self {
            node,
            samples: Vec::new(),
            lags: Vec::new(),
        }
    }

    /// Notes how late a connection was told.
    pub fn lag(&mut self, at: f64, lag: Duration) {
        self.lags.push((at, lag.as_secs_f64()));
    }

    /// The value that so many of a hundred are not above.
    fn percentile(values: impl Iterator<Item = f64>, percent: usize) -> f64 {
        let mut all: Vec<f64> = values.collect();
        all.sort_by(f64::total_cmp);
        let last = all.len().saturating_sub(1);
        all.get(last * percent / 100).copied().unwrap_or_default()
    }
}

/// The outcome.
#[derive(Debug, Serialize)]
pub struct Report {
    seed: u64,
    seconds: f64,
    failed: Option<String>,
    events: Vec<Event>,
    nodes: Vec<Track>,
}

impl Report {
    /// Of a soak that is over.
    pub fn new(
        seed: u64,
        story: &Story,
        nodes: Vec<Track>,
        failed: Option<&anyhow::Error>,
    ) -> Self {
        Self {
            seed,
            seconds: story.at(Instant::now()),
            failed: failed.map(|error| format!("{error:#}")),
            events: story.lock().clone(),
            nodes,
        }
    }

    /// Writes `soak.json` and `soak.svg` into a folder.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let json = folder.join("soak.json");
        std::fs::write(&json, serde_json::to_string_pretty(self)?)
            .with_context(|| json.display().to_string())?;
        let picture = folder.join("soak.svg");
        plot::draw(&picture, self.seconds, &self.nodes, &self.events)
            .with_context(|| picture.display().to_string())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = self.events.iter().filter(|event| event.fault).count();
        writeln!(
            f,
            "\n{:.0} s, seed {}, {faults} faults: {}",
            self.seconds,
            self.seed,
            self.failed.as_deref().unwrap_or("everything held")
        )?;
        writeln!(
            f,
            "\nNODE   MEMORY MEDIAN/PEAK   CPU MEDIAN/PEAK   FILES PEAK   LAG MEDIAN/95%/PEAK"
        )?;
        for track in &self.nodes {
            let of = |value: fn(&Sample) -> f64, percent| {
                Track::percentile(track.samples.iter().map(value), percent)
            };
            let lag = |percent| Track::percentile(track.lags.iter().map(|(_, lag)| *lag), percent);
            writeln!(
                f,
                "node{}  {:5.1} / {:5.1} MiB     {:4.1} / {:5.1} %    {:6}       {:.0} / {:.0} / {:.0} ms",
                track.node,
                of(|sample| sample.rss_mib, 50),
                of(|sample| sample.rss_mib, 100),
                of(|sample| sample.cpu_percent, 50),
                of(|sample| sample.cpu_percent, 100),
                of(|sample| sample.fds as f64, 100),
                lag(50) * 1e3,
                lag(95) * 1e3,
                lag(100) * 1e3,
            )?;
        }
        Ok(())
    }
}
