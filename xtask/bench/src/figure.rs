//! Figures: the rounds, their median, the goal, and how they are shown.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Goal {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

/// One figure of one run.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Its key in the JSON file.
    pub name: String,
    /// Unit; `ratio` for a quotient.
    pub unit: &'static str,
    /// What it should be.
    pub goal: Option<Goal>,
    /// Its value in each round.
    pub rounds: Vec<f64>,
    /// Whether it is in the table, or in the JSON file only.
    printed: bool,
}

impl Figure {
    /// One without a goal.
    pub fn new(name: impl Into<String>, unit: &'static str, rounds: Vec<f64>) -> Self {
        Self {
            name: name.into(),
            unit,
            goal: None,
            rounds,
            printed: true,
        }
    }

    /// The same, left out of the table.
    #[must_use]
    pub fn unprinted(mut self) -> Self {
        self.printed = false;
        self
    }

    /// The same with a goal.
    #[must_use]
    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// The middle of its rounds; not a number without any.
    pub fn median(&self) -> f64 {
        median(&self.rounds)
    }

    fn spread(&self) -> (f64, f64) {
        let least = self.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self
            .rounds
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max);
        (least, most)
    }

    fn json(&self) -> Value {
        let (least, most) = self.spread();
        let mut value = json!({
            "unit": self.unit,
            "median": round(self.median()),
            "min": round(least),
            "max": round(most),
            "rounds": self.rounds.iter().copied().map(round).collect::<Vec<_>>(),
        });
        match self.goal {
            Some(Goal::AtMost(most)) => value["at_most"] = json!(most),
            Some(Goal::AtLeast(least)) => value["at_least"] = json!(least),
            None => {}
        }
        value
    }
}

/// The middle value; the mean of the two middle ones of an even number.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Everything that a run measured.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
    notes: Vec<String>,
}

impl Report {
    /// Adds a figure, and says it at once: a run takes minutes.
    pub fn add(&mut self, figure: Figure) {
        eprintln!(
            "  {}: {} {}",
            figure.name,
            shown(figure.median()),
            figure.unit
        );
        self.figures.push(figure);
    }

    /// Adds a line that says under which conditions figures hold.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Prints the table.
    pub fn print(&self) {
        if self.figures.is_empty() {
            return;
        }
        println!(
            "kernel {}, {}\n",
            kernel(),
            jiff::Timestamp::now().strftime("%Y-%m-%d")
        );
        let printed = || self.figures.iter().filter(|figure| figure.printed);
        let width = printed().map(|f| f.name.len()).max().unwrap_or(0);
        println!(
            "{:width$}  {:>9}  {:<19}  {:<6}  GOAL",
            "FIGURE", "MEDIAN", "SPREAD", "UNIT"
        );
        for figure in printed() {
            let (least, most) = figure.spread();
            let spread = format!("{} to {}", shown(least), shown(most));
            let median = figure.median();
            let goal = figure.goal.map_or(String::new(), |goal| {
                let verdict = if goal.met(median) { "met" } else { "MISSED" };
                match goal {
                    Goal::AtMost(most) => format!("at most {most}: {verdict}"),
                    Goal::AtLeast(least) => format!("at least {least}: {verdict}"),
                }
            });
            println!(
                "{:width$}  {:>9}  {spread:<19}  {:<6}  {goal}",
                figure.name,
                shown(median),
                figure.unit
            );
        }
        for note in &self.notes {
            println!("\n{note}");
        }
    }

    /// Writes medians under their names, and beside them each figure with its rounds.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut all = Map::new();
        all.insert("date".to_owned(), json!(jiff::Timestamp::now().to_string()));
        all.insert("kernel".to_owned(), json!(kernel()));
        let mut figures = Map::new();
        for figure in &self.figures {
            all.insert(figure.name.clone(), json!(round(figure.median())));
            figures.insert(figure.name.clone(), figure.json());
        }
        all.insert("figures".to_owned(), Value::Object(figures));
        all.insert("notes".to_owned(), json!(self.notes));
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("making {}", directory.display()))?;
        }
        let text = serde_json::to_string_pretty(&Value::Object(all))?;
        fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} {}", release.trim(), std::env::consts::ARCH)
}

/// Four digits after the point are more than any figure is good for.
fn round(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

fn shown(value: f64) -> String {
    match value.abs() {
        big if big >= 1000.0 => format!("{value:.0}"),
        some if some >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
