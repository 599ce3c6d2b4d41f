//! Answers of DNS servers: the code in their headers, the type that was asked for, and nothing of
//! the names.

mod outcomes;
mod question;

use std::collections::HashMap;
use std::net::SocketAddr;

use nodescope_ebpf::DNS_HEAD;
/// Where DNS servers listen.
pub use nodescope_ebpf::DNS_PORT as PORT;
pub use outcomes::{Answered, Outcome, Questions};

use crate::datapath::Head;
use crate::flow::{Conversation, Flow, Protocol, Tuple};

/// Conversations that are remembered at most: 1 MiB.
const MOST: usize = 16_384;

/// Remembered for so long after the last answer, in nanoseconds: as long as checks look back.
const AGE: u64 = 300_000_000_000;

const SECOND: u64 = 1_000_000_000;

/// Response codes by number (IANA "DNS RCODEs"); those of the header's four bits.
const NAMES: [&str; 16] = [
    "NOERROR",
    "FORMERR",
    "SERVFAIL",
    "NXDOMAIN",
    "NOTIMP",
    "REFUSED",
    "YXDOMAIN",
    "YXRRSET",
    "NXRRSET",
    "NOTAUTH",
    "NOTZONE",
    "DSOTYPENI",
    "RCODE12",
    "RCODE13",
    "RCODE14",
    "RCODE15",
];

/// The name of a code.
fn name_of(code: u8) -> &'static str {
    NAMES[usize::from(code) % NAMES.len()]
}

/// NOERROR and NXDOMAIN: the server knew.
const ANSWERS: u16 = 1 | 1 << 3;

/// The response codes of a conversation, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Codes(u16);

impl Codes {
    /// Those of both.
    pub fn add(&mut self, more: Self) {
        self.0 |= more.0;
    }

    /// Whether one of them says that the server could not, or would not.
    pub fn failed(self) -> bool {
        self.0 & !ANSWERS != 0
    }

    /// Those that say so, in words.
    pub fn failures(self) -> String {
        Self(self.0 & !ANSWERS).to_string()
    }
}

impl std::fmt::Display for Codes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = NAMES.iter().enumerate();
        let own: Vec<&str> = names
            .filter(|(code, _)| self.0 >> code & 1 == 1)
            .map(|(_, name)| *name)
            .collect();
        f.write_str(&own.join(" and "))
    }
}

/// The code of an answer; `None` for a question, or what is no DNS (RFC 1035, 4.1.1).
fn code(message: &[u8]) -> Option<u8> {
    const QR: u8 = 0x80;
    const OPCODE: u8 = 0x78;
    let [_, _, flags, more, ..] = message.get(..DNS_HEAD)? else {
        return None;
    };
    (flags & QR != 0 && flags & OPCODE == 0).then_some(more & 0x0f)
}

#[derive(Debug, Default)]
struct Said {
    codes: Codes,
    last_ns: u64,
}

/// Answers of late, by server and client as each hook saw them.
#[derive(Debug, Default)]
pub struct Answers {
    said: HashMap<(SocketAddr, SocketAddr), Said>,
    /// When the old ones were looked for last.
    expired_ns: u64,
}

impl Answers {
    /// Takes a head in, if it is that of a DNS answer.
    pub fn take(&mut self, head: &Head) {
        let Tuple {
            source,
            destination,
            protocol,
        } = Conversation::of_key(&head.key).directed(head.from_a);
        if protocol != Protocol::UDP || source.port() != PORT {
            return;
        }
        let Some(code) = code(&head.bytes) else {
            return;
        };
        let ends = (source, destination);
        if self.said.len() >= MOST && !self.said.contains_key(&ends) {
            self.expire(head.time_ns);
            if self.said.len() >= MOST {
                return;
            }
        }
        let said = self.said.entry(ends).or_default();
        if head.time_ns.saturating_sub(said.last_ns) > AGE {
            said.codes = Codes::default();
        }
        said.codes.add(Codes(1 << code));
        said.last_ns = said.last_ns.max(head.time_ns);
    }

    /// What a conversation was answered; `None` when no answer of it was read.
    pub fn of(&self, flow: &Flow) -> Option<Codes> {
        let mut found: Option<Codes> = None;
        let hops = flow.hops.iter().filter_map(|hop| hop.tuple);
        for tuple in [flow.tuple, flow.nat.translated].into_iter().chain(hops) {
            let said = self.said.get(&(tuple.destination, tuple.source));
            // Ports come again: what was said before is another conversation's.
            if let Some(said) = said.filter(|said| said.last_ns >= flow.started_ns) {
                found.get_or_insert_default().add(said.codes);
            }
        }
        found
    }

    /// Forgets what is old; looks for it once a second at most, for a flood of questions must not
    /// make each of them dear.
    fn expire(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.expired_ns) < SECOND {
            return;
        }
        self.expired_ns = now_ns;
        self.said
            .retain(|_, said| now_ns.saturating_sub(said.last_ns) < AGE);
    }
}

#[cfg(test)]
mod tests {
    use nodescope_ebpf::{HopKey, mapped};

    use super::*;
    use crate::sink::fixture::{pod_to_pod, socket};

    fn head(from_a: bool, flags: [u8; 2]) -> Head {
        let mut bytes = vec![0; 12];
        bytes[2..4].copy_from_slice(&flags);
        Head {
            time_ns: 91_000_000_000,
            key: HopKey {
                a: mapped([10, 0, 0, 10]),
                b: mapped([10, 244, 0, 15]),
                a_port: 53,
                b_port: 40_000,
                protocol: 17,
                ..HopKey::default()
            },
            from_a,
            sequence: 0,
            length: 80,
            bytes,
        }
    }

    fn asked() -> Flow {
        let mut flow = pod_to_pod();
        flow.tuple.protocol = Protocol::UDP;
        flow.tuple.destination = socket([10, 0, 0, 10], PORT);
        flow
    }

    #[test]
    fn codes_are_those_of_answers() {
        let mut answers = Answers::default();
        answers.take(&head(false, [0x01, 0x00]));
        answers.take(&head(true, [0x01, 0x02]));
        assert_eq!(answers.of(&asked()), None, "questions say nothing");
        answers.take(&head(true, [0x81, 0x83]));
        let codes = answers.of(&asked()).unwrap_or_default();
        assert_eq!(
            (codes.to_string().as_str(), codes.failed()),
            ("NXDOMAIN", false)
        );
        answers.take(&head(true, [0x81, 0x82]));
        let codes = answers.of(&asked()).unwrap_or_default();
        assert!(codes.failed());
        assert_eq!(codes.failures(), "SERVFAIL");
        // A conversation that began later has none of these.
        let mut later = asked();
        later.started_ns = 92_000_000_000;
        assert_eq!(answers.of(&later), None);
    }

    #[test]
    fn what_is_too_short_is_no_answer() {
        let mut answers = Answers::default();
        let mut short = head(true, [0x81, 0x80]);
        short.bytes.truncate(11);
        answers.take(&short);
        assert_eq!(answers.of(&asked()), None);
        for length in 0..12 {
            assert_eq!(code(&[0xff; 12][..length]), None);
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut answers = Answers::default();
        for port in 1..=u16::MAX {
            let mut one = head(true, [0x81, 0x80]);
            one.key.b_port = port;
            answers.take(&one);
        }
        assert_eq!(answers.said.len(), MOST);
        let mut late = head(true, [0x81, 0x80]);
        late.time_ns += 2 * AGE;
        late.key.b = mapped([10, 244, 0, 16]);
        answers.take(&late);
        assert_eq!(answers.said.len(), 1);
    }
}
