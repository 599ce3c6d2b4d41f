//! Witnesses: what the kernel itself says about connections and interfaces.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};

use super::Lab;
use super::netns::Netns;

/// One direction of a connection as conntrack has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port; the identifier for ICMP echo.
    pub sport: u16,
    /// Destination port; type and code (`type << 8 | code`) for ICMP.
    pub dport: u16,
}

/// An entry of the connection-tracking table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConntrackEntry {
    /// `tcp`, `udp`, `icmp`…
    pub protocol: String,
    /// Seconds until it is forgotten.
    pub timeout: u64,
    /// The TCP state.
    pub state: Option<String>,
    /// As the initiator sent it.
    pub original: Tuple,
    /// As the answer comes: the translation, the other way round.
    pub reply: Tuple,
    /// Flags in brackets: `ASSURED`, `UNREPLIED`.
    pub flags: Vec<String>,
    /// The mark.
    pub mark: u32,
    /// The zone, 0 unless said.
    pub zone: u16,
}

impl ConntrackEntry {
    /// The tuple that the far end sees: the reply's, turned.
    pub fn translated(&self) -> Tuple {
        Tuple {
            src: self.reply.dst,
            dst: self.reply.src,
            sport: self.reply.dport,
            dport: self.reply.sport,
        }
    }
}

/// What an interface counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Packets received; what came through a segmentation offload counts once.
    pub rx_packets: u64,
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent, Ethernet headers included.
    pub tx_bytes: u64,
    /// Packets dropped, both ways.
    pub dropped: u64,
}

impl LinkStats {
    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            rx_packets: self.rx_packets - before.rx_packets,
            rx_bytes: self.rx_bytes - before.rx_bytes,
            tx_packets: self.tx_packets - before.tx_packets,
            tx_bytes: self.tx_bytes - before.tx_bytes,
            dropped: self.dropped - before.dropped,
        }
    }
}

impl Lab {
    /// The connection-tracking table of node `index`.
    pub fn conntrack(&self, index: usize) -> Result<Vec<ConntrackEntry>> {
        let argv = ["conntrack", "-L", "-o", "extended"];
        let out = self.node(index).tool(&argv, "")?;
        String::from_utf8_lossy(&out.stdout)
            .lines()
            .filter(|line| line.starts_with("ipv"))
            .map(parse_conntrack)
            .collect()
    }

    /// What `interface` in `netns` counted until now.
    pub fn link_stats(&self, netns: &Netns, interface: &str) -> Result<LinkStats> {
        let all = netns.ip_json(&["-s", "link", "show", "dev", interface])?;
        let stats = &all[0]["stats64"];
        let number = |way: &str, what: &str| {
            stats[way][what]
                .as_u64()
                .with_context(|| format!("no {way} {what} of {interface} in {}", netns.name()))
        };
        Ok(LinkStats {
            rx_packets: number("rx", "packets")?,
            rx_bytes: number("rx", "bytes")?,
            tx_packets: number("tx", "packets")?,
            tx_bytes: number("tx", "bytes")?,
            dropped: number("rx", "dropped")? + number("tx", "dropped")?,
        })
    }
}

/// A line of `conntrack -L -o extended`:
/// `ipv4 2 tcp 6 431999 ESTABLISHED src=… dst=… sport=… dport=… src=… … [ASSURED] mark=0 use=1`.
fn parse_conntrack(line: &str) -> Result<ConntrackEntry> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, _, protocol, _, timeout, rest @ ..] = words.as_slice() else {
        bail!("conntrack said '{line}'");
    };
    let pairs: Vec<(&str, &str)> = rest.iter().filter_map(|w| w.split_once('=')).collect();
    let value = |key: &str, nth: usize| -> Option<&str> {
        let mut found = pairs.iter().filter(|(name, _)| *name == key);
        found.nth(nth).map(|(_, value)| *value)
    };
    let number = |key: &str, nth: usize| value(key, nth).and_then(|v| v.parse::<u16>().ok());
    let tuple = |nth: usize| -> Option<Tuple> {
        let icmp = number("type", nth).zip(number("code", nth));
        Some(Tuple {
            src: value("src", nth)?.parse().ok()?,
            dst: value("dst", nth)?.parse().ok()?,
            sport: number("sport", nth).or_else(|| number("id", nth))?,
            dport: number("dport", nth).or(icmp.map(|(kind, code)| kind << 8 | code))?,
        })
    };
    let (Some(original), Some(reply)) = (tuple(0), tuple(1)) else {
        bail!("conntrack said '{line}'");
    };
    let bracketed = |word: &&str| {
        let inner = word.strip_prefix('[')?.strip_suffix(']')?;
        Some(inner.to_owned())
    };
    let state = rest.first().filter(|word| !word.contains(['=', '[']));
    Ok(ConntrackEntry {
        protocol: (*protocol).to_owned(),
        timeout: timeout.parse().unwrap_or_default(),
        state: state.map(|word| (*word).to_owned()),
        original,
        reply,
        flags: rest.iter().filter_map(bracketed).collect(),
        mark: value("mark", 0)
            .and_then(|v| v.parse().ok())
            .unwrap_or_default(),
        zone: number("zone", 0).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conntrack_lines_are_read() {
        let entry = parse_conntrack(
            "ipv4     2 tcp      6 431999 ESTABLISHED src=10.244.0.15 dst=10.224.1.2 \
             sport=60996 dport=8080 src=10.224.1.2 dst=10.224.0.4 sport=8080 dport=1024 \
             [ASSURED] mark=0 use=1",
        )
        .unwrap();
        assert_eq!(entry.state.as_deref(), Some("ESTABLISHED"));
        assert_eq!(entry.flags, ["ASSURED"]);
        let seen = entry.translated();
        assert_eq!(seen.src.to_string(), "10.224.0.4");
        assert_eq!((seen.sport, seen.dport), (1024, 8080));

        let ping = parse_conntrack(
            "ipv4     2 icmp     1 29 src=10.244.0.15 dst=10.1.2.3 type=8 code=0 id=7 \
             [UNREPLIED] src=10.1.2.3 dst=10.224.0.4 type=0 code=0 id=7 mark=0 zone=3 use=1",
        )
        .unwrap();
        assert_eq!((ping.original.sport, ping.original.dport), (7, 0x800));
        assert_eq!(ping.state, None);
        assert_eq!(ping.zone, 3);
        assert!(parse_conntrack("ipv4 2 tcp").is_err());
    }
}
