//! Time from a pod's first packet to its flow at the CLI.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nodescope_tests::lab::{Lab, binary};

use crate::agent::{self, Agent};
use crate::figure::{Figure, Goal, Report, median};
use crate::stop::Stop;

/// Connections in a round.
const SAMPLES: u32 = 20;
/// Between two of them, so that they meet the agent at different moments.
const PAUSE: Duration = Duration::from_millis(67);
/// A flow that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(10);
const PORT: u16 = 20_002;

/// Measures it.
///
/// # Errors
/// The lab or the agent does not start, or the user wants an end.
pub fn measure(rounds: u32, stop: &Stop, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("from the first packet to the flow at the CLI");
    let lab = agent::lab()?;
    let _sink = lab
        .vm()
        .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    let agent = Agent::start(&lab, &[])?;
    let mut follower = Follower::start(&agent)?;
    // The first tells that the CLI is connected.
    first(&lab, &follower)?;
    let (mut middle, mut slow) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut times = Vec::new();
        for _ in 0..SAMPLES {
            stop.check()?;
            times.push(one(&lab, &follower)?);
            std::thread::sleep(PAUSE);
        }
        middle.push(median(&times));
        slow.push(times.iter().copied().fold(0.0, f64::max));
    }
    follower.end()?;
    agent.stop()?;
    report.add(Figure::new("first_flow_ms_p50", "ms", middle).goal(Goal::AtMost(50.0)));
    report.add(Figure::new("first_flow_ms_max", "ms", slow));
    Ok(())
}

/// `nodescope observe --follow`, its lines with the time at which each came.
struct Follower {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Follower {
    fn start(agent: &Agent) -> anyhow::Result<Self> {
        let mut child = Command::new(binary("NODESCOPE_BIN", "nodescope")?)
            .args([
                "observe",
                "--follow",
                "-o",
                "json",
                "--server",
                &agent.server(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("running nodescope observe")?;
        let out = child
            .stdout
            .take()
            .context("no output of nodescope observe")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// When the flow from this source port came.
    fn wait(&self, port: u16, patience: Duration) -> anyhow::Result<Option<Instant>> {
        let end = Instant::now() + patience;
        let wanted = format!("\"source_port\":{port},");
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok((at, line)) if line.replace(' ', "").contains(&wanted) => return Ok(Some(at)),
                Ok(_) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => return Ok(None),
                Err(error) => bail!("nodescope observe ended: {error}"),
            }
        }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It has ended already, as a rule.
        let _ = self.end();
    }
}

fn first(lab: &Lab, follower: &Follower) -> anyhow::Result<()> {
    for _ in 0..100 {
        let (_, port) = send(lab)?;
        if follower.wait(port, Duration::from_millis(200))?.is_some() {
            return Ok(());
        }
    }
    bail!("nodescope observe shows no flow")
}

/// Milliseconds of one connection.
fn one(lab: &Lab, follower: &Follower) -> anyhow::Result<f64> {
    let (sent, port) = send(lab)?;
    let Some(came) = follower.wait(port, PATIENCE)? else {
        bail!("a flow did not come within {PATIENCE:?}");
    };
    Ok(came.saturating_duration_since(sent).as_secs_f64() * 1000.0)
}

/// A datagram from a port that was not used before.
fn send(lab: &Lab) -> anyhow::Result<(Instant, u16)> {
    let far = SocketAddr::from((lab.topology().vm.ip(), PORT));
    let socket = lab
        .pod("web")?
        .netns()
        .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let port = socket.local_addr()?.port();
    let now = Instant::now();
    socket.send_to(b"first", far)?;
    Ok((now, port))
}
