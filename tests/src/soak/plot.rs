//! Memory, processor time, lag and the rest over time, as one SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::report::{Event, Track};
use super::samples::Sample;

const WIDTH: u32 = 1200;
const PANEL: u32 = 220;
const TITLE: u32 = 30;
const FAULT: RGBColor = RGBColor(200, 60, 60);
const COLOURS: [RGBColor; 4] = [
    RGBColor(30, 110, 180),
    RGBColor(230, 130, 20),
    RGBColor(60, 150, 60),
    RGBColor(140, 90, 170),
];

/// One line of a panel: points of seconds and a value.
type Line = Vec<(f64, f64)>;

/// Draws a panel for each thing measured, a line for each node, and a stroke for each fault.
///
/// # Errors
/// The file cannot be written.
pub fn draw(path: &Path, seconds: f64, nodes: &[Track], events: &[Event]) -> Result<()> {
    let of = |value: fn(&Sample) -> Option<f64>| -> Vec<Line> {
        let line = |track: &Track| {
            let samples = track.samples.iter();
            samples
                .filter_map(|one| Some((one.at, value(one)?)))
                .collect()
        };
        nodes.iter().map(line).collect()
    };
    let lags = |track: &Track| {
        track
            .lags
            .iter()
            .map(|(at, lag)| (*at, lag * 1e3))
            .collect()
    };
    let panels: [(&str, Vec<Line>); 6] = [
        ("resident memory, MiB", of(|one| Some(one.rss_mib))),
        (
            "processor time, percent of a core",
            of(|one| Some(one.cpu_percent)),
        ),
        (
            "first packet to flow log, ms",
            nodes.iter().map(lags).collect(),
        ),
        ("open files", of(|one| Some(one.fds as f64))),
        ("records in the kernel's table", of(|one| one.entries)),
        (
            "series of /metrics",
            of(|one| one.series.map(|all| all as f64)),
        ),
    ];
    let height = TITLE + PANEL * panels.len() as u32;
    let wrong = |error: &dyn std::fmt::Display| anyhow!("{error}");
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE).map_err(|error| wrong(&error))?;
    let root = root
        .titled("nodescope under soak; red: a fault", ("sans-serif", 18))
        .map_err(|error| wrong(&error))?;
    let areas = root.split_evenly((panels.len(), 1));
    for (area, (name, lines)) in areas.iter().zip(&panels) {
        panel(area, name, lines, seconds, events).map_err(|error| wrong(&error))?;
    }
    root.present().map_err(|error| wrong(&error))
}

fn panel<'a, B: DrawingBackend + 'a>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    name: &str,
    lines: &[Line],
    seconds: f64,
    events: &[Event],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let values = lines.iter().flatten().map(|(_, value)| *value);
    let most = values.fold(1.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .caption(name, ("sans-serif", 14))
        .margin(6)
        .x_label_area_size(22)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..seconds, 0.0..most)?;
    let label = |at: &f64| format!("{at:.0} s");
    let whole = |value: &f64| format!("{value:.0}");
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&label)
        .y_label_formatter(&whole)
        .y_labels(5)
        .draw()?;
    for event in events.iter().filter(|event| event.fault) {
        let stroke = [(event.at, 0.0), (event.at, most)];
        chart.draw_series(LineSeries::new(stroke, FAULT.mix(0.4)))?;
    }
    for (node, (line, colour)) in lines.iter().zip(COLOURS.iter().cycle()).enumerate() {
        chart
            .draw_series(LineSeries::new(
                line.iter().copied(),
                colour.stroke_width(1),
            ))?
            .label(format!("node{node}"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()
}
