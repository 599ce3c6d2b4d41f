//! Cost of a hook per packet.
//!
//! The kernel runs a program many times over one frame (`BPF_PROG_TEST_RUN`). The net cost is what
//! a run costs beyond that of an empty program; its ratio is to the net cost of a floor: a program
//! that parses the 5-tuple by direct access, looks it up in a hash with a key of the same size and
//! adds twice. In a new-flow flood every run sees another flow, and the floor inserts it.

pub mod floor;
pub mod frames;
mod programs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::figure::{Figure, Goal, Report, median};
use crate::stop::Stop;
use frames::{ACK_PSH, Context, SYN};
use programs::{Program, Programs};

/// Where a hook hangs, and the program that hangs there.
const HOOKS: [(&str, &str); 6] = [
    ("pod_ingress", "port_ingress"),
    ("pod_egress", "port_egress"),
    ("bridge_ingress", "host_ingress"),
    ("bridge_egress", "host_egress"),
    ("uplink_ingress", "host_ingress"),
    ("uplink_egress", "host_egress"),
];

/// Index of the interface by which forwarded packets came: none of the bridge's ports.
const CAME_BY: u32 = 7;

/// Runs in a row, and how many such rows a round has.
const REPEAT: u32 = 100_000;
const ROWS: usize = 6;
/// Flows that are new in a row: fewer than the ring of events has room for.
const NEW_FLOWS: u32 = 16_000;
/// Flows among which established packets are spread.
const SPREAD: u32 = 50_000;

/// How the frames of a row differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flows {
    /// One flow, which is established.
    One,
    /// Many, all established.
    Many,
    /// Every frame begins a flow.
    New,
}

struct Traffic {
    name: &'static str,
    frame: Vec<u8>,
    segments: u32,
    flows: Flows,
}

fn traffic() -> [Traffic; 6] {
    let of = |name, frame, segments, flows| Traffic {
        name,
        frame,
        segments,
        flows,
    };
    [
        of("udp_64", frames::udp(64), 0, Flows::One),
        of("tcp_bulk", frames::tcp(ACK_PSH, 1514), 0, Flows::One),
        of(
            "tcp_bulk_offloaded",
            frames::tcp(ACK_PSH, 2962),
            2,
            Flows::One,
        ),
        of("udp_64_in_50k_flows", frames::udp(64), 0, Flows::Many),
        of("new_flow_udp", frames::udp(64), 0, Flows::New),
        of("new_flow_tcp", frames::tcp(SYN, 60), 0, Flows::New),
    ]
}

/// Nanoseconds of each round: of the empty program, of the floor, of each hook.
#[derive(Default)]
struct Costs {
    empty: Vec<f64>,
    floor: Vec<f64>,
    /// By program: a bridge and an uplink have one in common.
    programs: BTreeMap<&'static str, Vec<f64>>,
}

/// Measures every hook with every kind of traffic.
///
/// # Errors
/// The kernel refuses a program or a run, or the user wants an end.
pub fn measure(rounds: u32, floor: &Path, stop: &Stop, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("cost of the hooks");
    let statistics = std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled");
    ensure!(
        statistics.is_ok_and(|text| text.trim() == "0"),
        "the kernel keeps run statistics, which cost more than the programs: set \
         kernel.bpf_stats_enabled to 0"
    );
    let mut programs = Programs::load(floor).context("loading the programs")?;
    let traffic = traffic();
    let mut costs: Vec<Costs> = traffic.iter().map(|_| Costs::default()).collect();
    for _ in 0..rounds {
        for (traffic, costs) in traffic.iter().zip(&mut costs) {
            stop.check()?;
            costs
                .empty
                .push(row(&mut programs, Program::Empty, traffic)?);
            costs
                .floor
                .push(row(&mut programs, Program::Floor, traffic)?);
            for name in HOOKS.iter().map(|hook| hook.1).collect::<BTreeSet<_>>() {
                let cost = row(&mut programs, Program::Hook(name), traffic)?;
                costs.programs.entry(name).or_default().push(cost);
            }
        }
    }
    tell(&traffic, &costs, report);
    report.note(
        "Hooks: nanoseconds beyond an empty program, by BPF_PROG_TEST_RUN with a table of the \
         default size. Test runs have no conntrack entry: an established record has looked for it \
         by then, as it has in operation, where it is read once a connection.",
    );
    Ok(())
}

/// One program's cost per run with one kind of traffic: the median of several rows.
fn row(programs: &mut Programs, program: Program, traffic: &Traffic) -> anyhow::Result<f64> {
    let context = Context {
        ingress_ifindex: CAME_BY,
        segments: traffic.segments,
        segment_size: if traffic.segments > 0 { 1448 } else { 0 },
    };
    let frame = &traffic.frame;
    let mut rows = Vec::new();
    if traffic.flows == Flows::New {
        programs.clear(program)?;
    } else {
        // The flow begins, and its conntrack entry has been looked for.
        begin(programs, program, traffic, context)?;
    }
    let count = if traffic.flows == Flows::One {
        ROWS
    } else {
        ROWS / 2
    };
    for _ in 0..count {
        rows.push(match traffic.flows {
            Flows::One => programs.run(program, frame, context, REPEAT)?,
            Flows::Many => programs.run_varied(program, frame, context, SPREAD)?,
            Flows::New => {
                let cost = programs.run_varied(program, frame, context, NEW_FLOWS)?;
                programs.clear(program)?;
                cost
            }
        });
    }
    if traffic.flows == Flows::Many {
        programs.clear(program)?;
    }
    Ok(middle(&rows))
}

/// Lets all flows of established traffic be known, with so many packets each that no conntrack
/// entry is looked for any more.
fn begin(
    programs: &mut Programs,
    program: Program,
    traffic: &Traffic,
    context: Context,
) -> anyhow::Result<()> {
    const PACKETS: u32 = 10;
    if traffic.flows == Flows::One {
        programs.run(program, &traffic.frame, context, PACKETS)?;
        return Ok(());
    }
    for _ in 0..PACKETS {
        programs.run_varied(program, &traffic.frame, context, SPREAD)?;
    }
    Ok(())
}

/// The mean of the middle half: the kernel gives whole nanoseconds, and a median of them would be
/// one too.
fn middle(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let cut = sorted.len() / 4;
    let kept = &sorted[cut..sorted.len() - cut];
    kept.iter().sum::<f64>() / kept.len() as f64
}

fn tell(traffic: &[Traffic], costs: &[Costs], report: &mut Report) {
    let mut worst: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    let mut details = Vec::new();
    for (traffic, costs) in traffic.iter().zip(costs) {
        let net = |rounds: &[f64]| -> Vec<f64> {
            let pairs = rounds.iter().zip(&costs.empty);
            pairs.map(|(cost, empty)| cost - empty).collect()
        };
        let floor = net(&costs.floor);
        let name = traffic.name;
        details.push(Figure::new(
            format!("{name}_floor_net_ns"),
            "ns",
            floor.clone(),
        ));
        for (place, program) in HOOKS {
            let net = net(costs.programs.get(program).map_or(&[], Vec::as_slice));
            let pairs = net.iter().zip(&floor);
            let ratio: Vec<f64> = pairs.map(|(hook, floor)| hook / floor).collect();
            let worst = &mut worst[usize::from(traffic.flows == Flows::New)];
            if worst.is_empty() || median(&ratio) > median(worst) {
                worst.clone_from(&ratio);
            }
            details.push(Figure::new(format!("{name}_{place}_ratio"), "ratio", ratio));
            details.push(Figure::new(format!("{name}_{place}_net_ns"), "ns", net).unprinted());
        }
    }
    let [established, new_flow] = worst;
    let figure = Figure::new("hook_net_cost_ratio_established", "ratio", established);
    report.add(figure.goal(Goal::AtMost(1.5)));
    let figure = Figure::new("hook_net_cost_ratio_new_flow", "ratio", new_flow);
    report.add(figure.goal(Goal::AtMost(4.0)));
    details.into_iter().for_each(|figure| report.add(figure));
}
