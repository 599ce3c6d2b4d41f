//! What nodescope costs, measured in one run: `cargo xtask bench`.
//!
//! Every figure is taken in rounds that alternate between what is compared, so that what the
//! machine does besides meets both sides alike; a figure is the median of its rounds.

mod agent;
mod cluster;
mod connections;
mod drain;
mod figure;
mod first_flow;
mod flood;
mod hooks;
mod stop;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use figure::Report;
use stop::Stop;

/// Measures what nodescope costs and prints one table
#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    bin_name = "cargo xtask bench",
    disable_help_subcommand = true
)]
pub struct Options {
    /// Measure only this
    #[arg(long, value_name = "NAME", value_enum)]
    only: Vec<Group>,
    /// Measure only what a large cluster costs: the same as --only cluster
    #[arg(long)]
    cluster: bool,
    /// Rounds of each comparison; the figure is their median
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Where the figures and their rounds go as JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    out: PathBuf,
    /// The object with the programs to compare with
    #[arg(long, value_name = "FILE", hide = true)]
    floor: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What a measurement runs beside itself.
#[derive(Subcommand)]
enum Part {
    /// Hold a large cluster's objects in an API server
    #[command(hide = true)]
    HoldCluster(cluster::Hold),
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Cost of each hook per packet, against the least that a flow counter must do
    Hooks,
    /// TCP throughput and UDP packet rate across a node, with the agent against without
    Traffic,
    /// Processor time and memory of the agent as connections grow
    Connections,
    /// Time from a pod's first packet to its flow at the CLI
    FirstFlow,
    /// Time to read 100,000 records out of the kernel
    Drain,
    /// 200,000 conversations in 4 s, and 1,000,000 in a minute: what is attributed, and the memory
    Flood,
    /// Time, memory and traffic that a cluster of 50,000 pods costs, and processor time as they
    /// change; only when it is asked for
    Cluster,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if let Some(Part::HoldCluster(hold)) = &options.part {
        cluster::hold(hold)?;
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        nodescope_tests::lab::is_root(),
        "the benchmarks load eBPF programs and make network namespaces: run them as root"
    );
    let stop = Stop::on_signal()?;
    let rounds = options.rounds;
    let mut report = Report::default();
    let all = options.only.is_empty() && !options.cluster;
    let wanted = |group| all || options.only.contains(&group);
    let floor = || options.floor.as_deref().context("--floor is missing");
    let outcome = (|| {
        if wanted(Group::Hooks) {
            hooks::measure(rounds, floor()?, &stop, &mut report)?;
        }
        if wanted(Group::Drain) {
            drain::measure(rounds, floor()?, &stop, &mut report)?;
        }
        if wanted(Group::Traffic) {
            traffic::measure(rounds, &stop, &mut report)?;
        }
        if wanted(Group::FirstFlow) {
            first_flow::measure(rounds, &stop, &mut report)?;
        }
        if wanted(Group::Connections) {
            connections::measure(rounds, &stop, &mut report)?;
        }
        if wanted(Group::Flood) {
            flood::measure(rounds, &stop, &mut report)?;
        }
        if options.cluster || options.only.contains(&Group::Cluster) {
            cluster::measure(rounds, &stop, &mut report)?;
        }
        anyhow::Ok(())
    })();
    // What was measured until then is worth having, after a Ctrl-C too.
    report.print();
    report.write(&options.out)?;
    outcome?;
    println!("\nwritten to {}", options.out.display());
    Ok(ExitCode::SUCCESS)
}
