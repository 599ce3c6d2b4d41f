//! Frames of every kind through the programs in the kernel: what they count is what the parser on
//! the host says of the same bytes, and what tshark says of a capture of them.

#[path = "../../agent-ebpf/tests/frames/mod.rs"]
mod frames;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;

use aya::programs::{TestRun, TestRunOptions};
use nodescope::datapath::{Datapath, Method, Settings};
use nodescope::flow::ip;
use nodescope_ebpf::packet::{Frame, Part, Start, Whole, plain, whole};
use nodescope_ebpf::{HopKey, Reason};
use proptest::strategy::{Strategy, ValueTree as _};
use proptest::test_runner::{Config, TestRunner};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome = Result<(), Failure>;

/// The loopback, which the frames of a test run came in by.
const IFINDEX: u32 = 1;
/// `TC_ACT_UNSPEC`: on to the next program.
const ON: u32 = u32::MAX;
/// Whether a test run takes a frame: it wants an Ethernet header with something behind it, and of
/// an IP packet the whole fixed header (`bpf_prog_test_run_skb`, net/bpf/test_run.c).
fn is_taken(frame: &[u8]) -> bool {
    let least = match frame.get(12..14) {
        Some([0x08, 0x00]) => 20,
        Some([0x86, 0xdd]) => 40,
        _ => 1,
    };
    frame.len() >= 14 + least
}

/// A table for every conversation that there can be.
const CONNECTIONS: u32 = 65_536;

struct Bytes<'a>(&'a [u8]);

impl Frame for Bytes<'_> {
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        let bytes = self.0.get(at..at.checked_add(size_of::<T>())?)?;
        // SAFETY: the slice is as long as T, a header of plain bytes.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}

/// As many frames as asked for: always the same ones, but with `PROPTEST_CASES` so many others.
fn generate(
    strategy: &impl Strategy<Value = Vec<u8>>,
    count: u32,
) -> Result<Vec<Vec<u8>>, Failure> {
    let (mut runner, count) = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => (TestRunner::default(), Config::default().cases),
        None => (TestRunner::deterministic(), count),
    };
    let one = |_| Ok(strategy.new_tree(&mut runner)?.current());
    let frames: Result<Vec<_>, proptest::test_runner::Reason> = (0..count).map(one).collect();
    let mut frames = frames.map_err(|reason| reason.to_string())?;
    frames.retain(|frame| is_taken(frame));
    Ok(frames)
}

fn loaded() -> Result<Option<Datapath>, Failure> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root for eBPF");
        return Ok(None);
    }
    Ok(Some(Datapath::load(&Settings {
        max_connections: CONNECTIONS,
        nat: false,
        dns_questions: false,
        method: Some(Method::of_this_kernel()),
        pinning: None,
    })?))
}

/// One frame through the program of a pod's ingress.
fn run(datapath: &Datapath, frame: &[u8]) -> Outcome {
    let program = datapath.program("port_ingress").ok_or("no port_ingress")?;
    let result = program.test_run(TestRunOptions {
        data_in: Some(frame),
        ..TestRunOptions::default()
    });
    let result = result.map_err(|error| format!("{error} for {frame:02x?}"))?;
    if result.return_value != ON {
        return Err(format!("{} for {frame:02x?}", result.return_value).into());
    }
    Ok(())
}

/// Packets and bytes from the smaller end to the larger, and back.
type Counts = [(u64, u64); 2];

fn records(datapath: &mut Datapath) -> Result<BTreeMap<String, Counts>, Failure> {
    let mut found = BTreeMap::new();
    datapath.for_each(|key, record| {
        let counts = [record.ab, record.ba].map(|counter| (counter.packets, counter.bytes));
        found.insert(format!("{key:?}"), counts);
    })?;
    Ok(found)
}

fn reasons(datapath: &Datapath) -> Result<BTreeMap<&'static str, u64>, Failure> {
    let found = datapath.unattributed()?;
    let named = found.into_iter().filter_map(|(key, counter)| {
        let reason = Reason::ALL.get(usize::from(key.reason))?;
        Some((reason.name(), counter.packets))
    });
    Ok(named.collect())
}

fn add(counts: &mut Counts, forward: bool, bytes: usize) {
    let direction = &mut counts[usize::from(!forward)];
    direction.0 += 1;
    direction.1 += bytes as u64;
}

#[test]
fn the_kernel_counts_what_the_parser_says() -> Outcome {
    let Some(mut datapath) = loaded()? else {
        return Ok(());
    };
    let mut frames = generate(&frames::well_formed(), 600)?;
    frames.extend(generate(&frames::mutated(), 1200)?);
    let (mut wanted, mut failed) = (BTreeMap::<String, Counts>::new(), BTreeMap::new());
    let mut others = Vec::new();
    for frame in &frames {
        let mut found = Whole::EMPTY;
        let (bytes, length) = (Bytes(frame), frame.len());
        match whole(&bytes, 0, Start::Ethernet, length, false, &mut found) {
            // Their place depends on what came before: only their number is compared.
            Ok(()) if found.part != Part::Whole || found.quotes => {
                others.push(frame);
                continue;
            }
            Ok(()) => {
                let (key, forward) = found.packet.key(IFINDEX, false);
                let counts = wanted.entry(format!("{key:?}")).or_default();
                add(counts, forward, length);
            }
            Err(reason) => *failed.entry(reason.name()).or_default() += 1,
        }
        run(&datapath, frame)?;
    }
    assert_eq!(records(&mut datapath)?, wanted);
    assert_eq!(reasons(&datapath)?, failed);
    assert!(wanted.len() > 50 && failed.len() > 2, "{failed:?}");

    for frame in &others {
        run(&datapath, frame)?;
    }
    let attributed = records(&mut datapath)?.into_values().flatten();
    let attributed: u64 = attributed.map(|(packets, _)| packets).sum();
    let unattributed: u64 = reasons(&datapath)?.into_values().sum();
    assert_eq!(attributed + unattributed, frames.len() as u64);
    Ok(())
}

/// A capture in the format of libpcap: header, then a header and the bytes of each frame.
fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    // Magic number, version 2.4, no zone, no accuracy, frames of any length, Ethernet.
    for word in [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for (number, frame) in frames.iter().enumerate() {
        let length = frame.len() as u32;
        for word in [number as u32, 0, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

/// An end as tshark writes it.
fn end(address: &str, port: &str) -> Result<(IpAddr, u16), Failure> {
    Ok((address.parse()?, port.parse()?))
}

/// A conversation without order: its ends by address and port, the smaller first.
type Ends = ((IpAddr, u16), (IpAddr, u16));

/// A table of `tshark -z conv`: rows of `A <-> B  frames bytes (from B)  frames bytes (from A) …`.
fn table(text: &str, protocol: u8, into: &mut BTreeMap<(u8, Ends), Counts>) -> Outcome {
    for line in text.lines().filter(|line| line.contains("<->")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [
            a,
            "<->",
            b,
            back,
            back_bytes,
            "bytes",
            there,
            there_bytes,
            "bytes",
            ..,
        ] = words.as_slice()
        else {
            return Err(format!("a row of another form: {line}").into());
        };
        let both = [a, b].map(|one| one.rsplit_once(':').ok_or("no port"));
        let (a, b) = (both[0]?, both[1]?);
        let (a, b) = (end(a.0, a.1)?, end(b.0, b.1)?);
        let there = (there.parse::<u64>()?, there_bytes.parse::<u64>()?);
        let back = (back.parse::<u64>()?, back_bytes.parse::<u64>()?);
        let (ends, more) = if a <= b {
            ((a, b), [there, back])
        } else {
            ((b, a), [back, there])
        };
        // What it takes for a connection anew is the same conversation here.
        let counts = into.entry((protocol, ends)).or_default();
        for (sum, more) in counts.iter_mut().zip(more) {
            sum.0 += more.0;
            sum.1 += more.1;
        }
    }
    Ok(())
}

fn ends(key: &HopKey) -> (Ends, bool) {
    let (a, b) = ((ip(&key.a), key.a_port), (ip(&key.b), key.b_port));
    if a <= b {
        ((a, b), true)
    } else {
        ((b, a), false)
    }
}

#[test]
fn a_capture_has_the_conversations_that_tshark_counts() -> Outcome {
    let Some(mut datapath) = loaded()? else {
        return Ok(());
    };
    if Command::new("tshark").arg("--version").output().is_err() {
        println!("skipped: tshark is not installed");
        return Ok(());
    }
    let mut frames = generate(&frames::well_formed(), 2000)?;
    // tshark's tables of TCP and UDP; a conversation of an address with itself has no directions.
    frames.retain(|frame| {
        plain(&Bytes(frame), frame.len(), false, IFINDEX, false)
            .is_some_and(|packet| packet.key.a != packet.key.b)
    });
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("frames.pcap");
    std::fs::write(&path, capture(&frames))?;
    let mut said = BTreeMap::new();
    for (name, protocol) in [("conv,tcp", 6), ("conv,udp", 17)] {
        let out = Command::new("tshark")
            .args(["-n", "-q", "-z", name, "-r"])
            .arg(&path)
            .output()?;
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        table(&String::from_utf8(out.stdout)?, protocol, &mut said)?;
    }
    for frame in &frames {
        run(&datapath, frame)?;
    }
    let mut counted = BTreeMap::new();
    datapath.for_each(|key, record| {
        let (ends, in_order) = ends(key);
        let mut counts = [record.ab, record.ba].map(|counter| (counter.packets, counter.bytes));
        if !in_order {
            counts.reverse();
        }
        // One conversation has two records where its directions crossed the interface one way.
        let sums: &mut Counts = counted.entry((key.protocol, ends)).or_default();
        for (sum, more) in sums.iter_mut().zip(counts) {
            sum.0 += more.0;
            sum.1 += more.1;
        }
    })?;
    assert!(counted.len() > 50, "{} conversations", counted.len());
    assert_eq!(counted, said);
    Ok(())
}
