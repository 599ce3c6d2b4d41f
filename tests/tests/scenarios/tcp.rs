//! How TCP connections end, and who ended them: told from packets, against the sockets' own word.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use nodescope_tests::lab::{Agent, Lab, Pod};

use crate::common::{PATIENCE, Record, eventually, lab, metric, number, one, synced};

/// Two pods on one node, and an agent that tells of a silent connection soon.
struct Two {
    lab: Lab,
    agent: Agent,
    web: Pod,
    web2: Pod,
}

fn two(name: &str, idle: &str) -> Result<Option<Two>> {
    let Some(lab) = lab(name)? else {
        return Ok(None);
    };
    let agent = lab.start_agent(0, &["--flow-interval", "300ms", "--idle-timeout", idle])?;
    synced(&agent)?;
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    Ok(Some(Two {
        lab,
        agent,
        web,
        web2,
    }))
}

impl Two {
    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.web2.ip(), port))
    }

    fn connect(&self, port: u16, timeout: Duration) -> Result<std::io::Result<TcpStream>> {
        let to = self.at(port);
        self.web
            .netns()
            .enter(|| TcpStream::connect_timeout(&to, timeout))
    }

    /// Both ends of a connection from web to a port of web2.
    fn pair(&self, port: u16) -> Result<(TcpStream, TcpStream)> {
        let own = self.at(port);
        let listener = self.web2.netns().enter(|| TcpListener::bind(own))??;
        let client = self.connect(port, PATIENCE)??;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
        }
        Ok((client, server))
    }

    /// The newest record of the connection to a port for which `choose` holds.
    fn record(&self, port: u16, what: &str, choose: impl Fn(&Record) -> bool) -> Result<Record> {
        let to = self.at(port);
        one(&self.agent, what, |record| {
            let tuple = record.tuple("/nat/original");
            tuple.is_some_and(|(_, destination)| destination == to) && choose(record)
        })
    }

    fn closed(&self, port: u16) -> Result<Record> {
        self.record(
            port,
            &format!("the closed connection to {port}"),
            |record| record.event() == "close",
        )
    }

    fn total(&self, name: &str) -> Result<f64> {
        Ok(metric(&self.agent, name, &[])?.unwrap_or(0.0))
    }
}

/// Closes with a reset instead of a FIN.
fn reset(stream: TcpStream) -> Result<()> {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// What the sockets of a namespace sent again: `TcpRetransSegs` of nstat.
fn resent(pod: &Pod) -> Result<u64> {
    let text = pod
        .netns()
        .enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next(), lines.next());
    let at = names
        .and_then(|names| names.split(' ').position(|name| name == "RetransSegs"))
        .context("no RetransSegs")?;
    let value = values.and_then(|values| values.split(' ').nth(at));
    Ok(value.context("no value")?.parse()?)
}

fn iptables(pod: &Pod, rule: &str) -> Result<()> {
    let argv: Vec<&str> = ["iptables", "-w"]
        .into_iter()
        .chain(rule.split(' '))
        .collect();
    pod.netns().tool(&argv, "")?;
    Ok(())
}

#[test]
fn a_refused_a_reset_and_a_half_closed_connection_are_told_apart() -> Result<()> {
    // Idle connections are kept for long: what closes here closes because it is over.
    let Some(two) = two("tcpends", "300s")? else {
        return Ok(());
    };
    // Nobody listens.
    let refused = two.connect(7001, PATIENCE)?;
    assert!(refused.is_err(), "{refused:?}");
    let record = two.closed(7001)?;
    assert_eq!(record.ext("/tcp/state"), "refused");
    assert_eq!(record.ext("/tcp/reset_by"), "responder");
    assert!(record.ext("/tcp/handshake_rtt_seconds").is_null());

    // Either side resets.
    for (port, by) in [(7002, "initiator"), (7003, "responder")] {
        let (client, server) = two.pair(port)?;
        let (one, mut other) = if by == "initiator" {
            (client, server)
        } else {
            (server, client)
        };
        reset(one)?;
        assert!(other.read(&mut [0]).is_err(), "{port} was not reset");
        let record = two.closed(port)?;
        assert_eq!(record.ext("/tcp/state"), "reset", "{port}");
        assert_eq!(record.ext("/tcp/reset_by"), by, "{port}");
        assert!(record.ext("/tcp/handshake_rtt_seconds").as_f64() > Some(0.0));
    }

    // One side is done, the other goes on; then it is done too.
    let (mut client, mut server) = two.pair(7004)?;
    client.write_all(b"question")?;
    client.shutdown(Shutdown::Write)?;
    two.record(7004, "a half-closed connection", |record| {
        record.ext("/tcp/state") == "half-closed" && record.event() != "close"
    })?;
    // A server that has not read everything would reset the connection.
    server.read_exact(&mut [0; 8])?;
    server.write_all(b"answer")?;
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    assert_eq!(answer, "answer");
    let record = two.closed(7004)?;
    assert_eq!(record.ext("/tcp/state"), "closed");
    assert!(record.ext("/tcp/reset_by").is_null());
    assert_eq!(number(record.ext("/tcp/retransmits")), Some(0));

    // The reset ones, and the refused one.
    eventually("three resets", || {
        Ok(two.total("nodescope_tcp_resets_total")? == 3.0)
    })
}

/// A server that drops SYNs: the client sends it again, and nobody answers.
#[test]
fn a_silent_port_is_unanswered_and_its_syn_is_sent_again() -> Result<()> {
    let Some(two) = two("tcpsilent", "4s")? else {
        return Ok(());
    };
    let before = resent(&two.web)?;
    iptables(&two.web2, "-A INPUT -p tcp --dport 7005 -j DROP")?;
    // Linux asks again after one second (RFC 6298 2.1).
    let silent = two.connect(7005, Duration::from_millis(1500))?;
    assert!(silent.is_err(), "{silent:?}");
    let record = two.closed(7005)?;
    assert_eq!(record.ext("/tcp/state"), "syn-sent");
    let sent = resent(&two.web)? - before;
    assert!(sent > 0, "no SYN was sent again");
    assert_eq!(number(record.ext("/forward/packets_total")), Some(1 + sent));
    assert_eq!(number(record.ext("/reply/packets_total")), Some(0));
    assert_eq!(number(record.ext("/tcp/retransmits")), Some(sent));
    eventually("one is unanswered", || {
        Ok(two.total("nodescope_tcp_unanswered_total")? == 1.0)
    })
}

/// Every fourth segment is lost on its way in: what the record says was sent again is what the
/// sender's namespace counted, and so for the SYN+ACKs and data of the other side.
#[test]
fn retransmissions_are_those_that_the_senders_counted() -> Result<()> {
    let Some(two) = two("tcplossy", "300s")? else {
        return Ok(());
    };
    let before = (resent(&two.web)?, resent(&two.web2)?);
    let metric_before = two.total("nodescope_tcp_retransmits_total")?;
    let lossy = "-p tcp --dport 7006 -m statistic --mode nth --every 7 --packet 3 -j DROP";
    iptables(&two.web2, &format!("-A INPUT {lossy}"))?;
    let back = "-p tcp --sport 7006 -m statistic --mode nth --every 9 --packet 0 -j DROP";
    iptables(&two.web, &format!("-A INPUT {back}"))?;
    let (mut client, mut server) = two.pair(7006)?;
    let bytes = vec![b'n'; 300_000];
    let total = bytes.len();
    let reader = std::thread::spawn(move || -> std::io::Result<usize> {
        let mut read = Vec::new();
        server.read_to_end(&mut read)?;
        server.write_all(&read[..100_000])?;
        Ok(read.len())
    });
    client.write_all(&bytes)?;
    client.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    let read = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    assert_eq!((read, answer.len()), (total, 100_000));
    drop(client);
    let sum = |record: &Record, way: &str| number(record.ext(way)).unwrap_or(0);
    eventually("the record has what the senders counted", || {
        let counted = (resent(&two.web)? - before.0, resent(&two.web2)? - before.1);
        let record = two.record(7006, "the lossy connection", |_| true)?;
        let ours = (
            sum(&record, "/tcp/retransmitted/forward"),
            sum(&record, "/tcp/retransmitted/reply"),
        );
        let metric = two.total("nodescope_tcp_retransmits_total")? - metric_before;
        // Seen once: 50 of 51, and why is not known. Perhaps the kernel passed over the tracepoint's
        // program, as it does with one that would interrupt itself.
        let agree = |ours: u64, counted: u64| ours <= counted && counted - ours <= 1;
        anyhow::ensure!(
            agree(ours.0, counted.0)
                && agree(ours.1, counted.1)
                && ours.0 > 0
                && metric == (ours.0 + ours.1) as f64,
            "record {ours:?}, senders {counted:?}, metric {metric}"
        );
        Ok(true)
    })
}

/// A reader that does not read: its window closes, as often as tcpdump saw it closed.
#[test]
fn a_closed_window_is_told() -> Result<()> {
    let Some(two) = two("tcpwindow", "300s")? else {
        return Ok(());
    };
    let filter = "tcp[14:2] = 0 and tcp[tcpflags] & tcp-rst = 0";
    let (client, server) = two.pair(7007)?;
    let capture = two.lab.tcpdump(&two.lab.node(0), filter)?;
    client.set_nonblocking(true)?;
    let mut client = client;
    let chunk = vec![b'n'; 1 << 16];
    // Until nothing more fits, for as long as the window takes to close.
    two.record(7007, "a closed window", |record| {
        while client
            .try_clone()
            .is_ok_and(|mut c| c.write(&chunk).is_ok())
        {}
        number(record.ext("/tcp/zero_windows/reply")).is_some_and(|count| count > 0)
    })?;
    reset(server)?;
    let _ = client.write(&chunk);
    let record = two.closed(7007)?;
    let mut seen = capture.stop_all()?;
    let (ingress, _) = seen.remove(two.web2.host_interface()).unwrap_or_default();
    assert_eq!(
        number(record.ext("/tcp/zero_windows/reply")),
        Some(ingress.packets())
    );
    Ok(())
}
