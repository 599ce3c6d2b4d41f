//! What became of questions, each once, however many hooks their packets passed: for the metrics.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::{PORT, SECOND, code, name_of, question};
use crate::datapath::Head;
use crate::flow::{Conversation, Event, Flow, Protocol, Tuple};

/// Conversations at a hook with answers that no record took up yet, at most: 4 MiB.
const MOST: usize = 32_768;

/// Answers that no record takes up are forgotten after so long, in nanoseconds: the longest
/// pause between two records of a connection is shorter.
const AGE: u64 = 120_000_000_000;

/// A hook, the server and the client.
type Place = (u32, SocketAddr, SocketAddr);

/// What an answer says, and what was asked for ([`question::kind`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    code: u8,
    asked: &'static str,
}

/// Answers that passed a hook.
#[derive(Debug)]
struct Heard {
    /// How many of each code and type. There are few: no more heads are sent of a connection.
    kinds: Vec<(Kind, u32)>,
    first_ns: u64,
    last_ns: u64,
}

/// What was told of a conversation.
#[derive(Debug, Default)]
struct Told {
    /// The interface whose hook is believed, once there was one.
    hook: Option<u32>,
    answers: u64,
}

/// Questions with the same answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Its code, by name.
    pub code: &'static str,
    /// The type that was asked for, by name; empty where questions are not read.
    pub asked: &'static str,
    /// So many.
    pub count: u64,
}

/// Outcomes of questions, news since the last record of their conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many got an answer.
    pub answered: Vec<Answered>,
    /// Answers whose header was not read.
    pub unread: u64,
    /// Questions that got none.
    pub unanswered: u64,
    /// From the first question to the first answer, with the record that has it.
    pub latency: Option<Duration>,
}

/// Questions under way.
#[derive(Debug, Default)]
pub struct Questions {
    heard: HashMap<Place, Heard>,
    told: HashMap<u64, Told>,
    /// When the old ones were looked for last.
    expired_ns: u64,
}

impl Questions {
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
        let place = (head.key.ifindex, source, destination);
        if self.heard.len() >= MOST && !self.heard.contains_key(&place) {
            self.expire(head.time_ns);
            if self.heard.len() >= MOST {
                return;
            }
        }
        let heard = self.heard.entry(place).or_insert(Heard {
            kinds: Vec::new(),
            first_ns: head.time_ns,
            last_ns: 0,
        });
        let kind = Kind {
            code,
            asked: question::kind(&head.bytes),
        };
        match heard.kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => heard.kinds.push((kind, 1)),
        }
        heard.last_ns = head.time_ns;
    }

    /// What a record's conversation has come to since its last one; `None` for what is no DNS
    /// over UDP. What is left open is told with its last record.
    pub fn outcome(&mut self, flow: &Flow) -> Option<Outcome> {
        let is_dns = flow.tuple.protocol == Protocol::UDP
            && flow.tuple.destination.port() == PORT
            && flow.event != Event::Drop;
        if !is_dns {
            return None;
        }
        let told = self.told.entry(flow.connection).or_default();
        let mut outcome = Outcome::default();
        for hop in &flow.hops {
            let tuple = hop.tuple.unwrap_or(flow.tuple);
            let place = (hop.ifindex, tuple.destination, tuple.source);
            let Some(heard) = self.heard.remove(&place) else {
                continue;
            };
            // Every hook hears the same answers: one is enough, the nearest to the client that
            // hears any. Ports come again: what was said before is another conversation's.
            let hook = *told.hook.get_or_insert(hop.ifindex);
            if hook != hop.ifindex || heard.last_ns < flow.started_ns {
                continue;
            }
            if told.answers == 0 {
                let after = heard.first_ns.checked_sub(flow.started_ns);
                outcome.latency = after.map(Duration::from_nanos);
            }
            for (kind, count) in heard.kinds {
                let count = u64::from(count);
                outcome.answered.push(Answered {
                    code: name_of(kind.code),
                    asked: kind.asked,
                    count,
                });
                told.answers += count;
            }
        }
        if flow.event == Event::Close {
            let (asked, answers) = (flow.forward.total.packets, flow.reply.total.packets);
            outcome.unread = answers.saturating_sub(told.answers);
            outcome.unanswered = asked.saturating_sub(answers);
            self.told.remove(&flow.connection);
        }
        Some(outcome)
    }

    /// Forgets what is old; looks for it once a second at most.
    fn expire(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.expired_ns) < SECOND {
            return;
        }
        self.expired_ns = now_ns;
        self.heard
            .retain(|_, heard| now_ns.saturating_sub(heard.last_ns) < AGE);
    }
}

#[cfg(test)]
mod tests {
    use nodescope_ebpf::{HopKey, mapped};

    use super::*;
    use crate::flow::Counts;
    use crate::sink::fixture::{pod_to_pod, socket};

    const SERVICE: [u8; 4] = [10, 0, 0, 10];
    const SERVER: [u8; 4] = [10, 244, 0, 3];

    /// An answer to the client of [`asked`] that a hook saw, so long after the question.
    fn answer(ifindex: u32, server: [u8; 4], code: u8, after: Duration) -> Head {
        let mut bytes = vec![0; 12];
        bytes[2..4].copy_from_slice(&[0x81, 0x80 | code]);
        Head {
            time_ns: 90_000_000_000 + u64::try_from(after.as_nanos()).unwrap_or(0),
            key: HopKey {
                a: mapped(server),
                b: mapped([10, 244, 0, 15]),
                a_port: 53,
                b_port: 40_000,
                protocol: 17,
                ifindex,
                ..HopKey::default()
            },
            from_a: true,
            sequence: 0,
            length: 80,
            bytes,
        }
    }

    /// A conversation by way of a service: the client's interface is 7, the server's 8.
    fn asked(event: Event, questions: u64, answers: u64) -> Flow {
        let mut flow = pod_to_pod();
        flow.tcp = None;
        flow.event = event;
        flow.tuple.protocol = Protocol::UDP;
        flow.tuple.destination = socket(SERVICE, PORT);
        let mut behind = flow.tuple;
        behind.destination = socket(SERVER, PORT);
        flow.hops[0].ifindex = 7;
        flow.hops[1].ifindex = 8;
        flow.hops[1].tuple = Some(behind);
        let counts = |packets| Counts {
            packets,
            bytes: 80 * packets,
        };
        flow.forward.total = counts(questions);
        flow.reply.total = counts(answers);
        flow
    }

    /// One question, of whose type nothing is known.
    fn answered(code: &'static str) -> Answered {
        Answered {
            code,
            asked: "",
            count: 1,
        }
    }

    #[test]
    fn types_are_told_apart() {
        let mut questions = Questions::default();
        for kind in [1, 28, 1] {
            let mut one = answer(7, SERVICE, 0, Duration::ZERO);
            one.bytes[5] = 1;
            one.bytes.extend(*b"\x03web\x00\x00");
            one.bytes.extend([kind, 0, 1]);
            questions.take(&one);
        }
        let told = questions.outcome(&asked(Event::Update, 3, 3));
        let of = |asked, count| Answered {
            code: "NOERROR",
            asked,
            count,
        };
        assert_eq!(
            told.unwrap_or_default().answered,
            [of("A", 2), of("AAAA", 1)]
        );
    }

    #[test]
    fn each_question_has_one_outcome_by_the_nearest_hook() {
        let mut questions = Questions::default();
        let (soon, late) = (Duration::from_micros(300), Duration::from_millis(2));
        // The same answers, on their way back: at the server's interface first.
        for (code, after) in [(0, soon), (3, late)] {
            questions.take(&answer(8, SERVER, code, after - Duration::from_micros(100)));
            questions.take(&answer(7, SERVICE, code, after));
        }
        let told = questions.outcome(&asked(Event::Update, 2, 2));
        let wanted = Outcome {
            answered: vec![answered("NOERROR"), answered("NXDOMAIN")],
            latency: Some(soon),
            ..Outcome::default()
        };
        assert_eq!(told, Some(wanted));
        assert!(questions.heard.is_empty());
        // Later: one failure more, two that were not read, three questions without an answer.
        questions.take(&answer(8, SERVER, 2, Duration::from_secs(1)));
        questions.take(&answer(7, SERVICE, 2, Duration::from_secs(1)));
        let told = questions.outcome(&asked(Event::Close, 8, 5));
        let wanted = Outcome {
            answered: vec![answered("SERVFAIL")],
            unread: 2,
            unanswered: 3,
            latency: None,
        };
        assert_eq!(told, Some(wanted));
        assert!(questions.told.is_empty() && questions.heard.is_empty());
    }

    #[test]
    fn what_is_older_or_no_dns_says_nothing() {
        let mut questions = Questions::default();
        questions.take(&answer(7, SERVICE, 0, Duration::ZERO));
        let mut flow = asked(Event::Update, 1, 1);
        flow.started_ns += 1;
        assert_eq!(questions.outcome(&flow), Some(Outcome::default()));
        assert_eq!(questions.outcome(&pod_to_pod()), None);
        let mut question = answer(7, SERVICE, 0, Duration::ZERO);
        question.from_a = false;
        questions.take(&question);
        assert!(questions.heard.is_empty());
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let mut questions = Questions::default();
        let mut one = answer(7, SERVICE, 0, Duration::ZERO);
        for port in 1..=u16::MAX {
            one.key.b_port = port;
            questions.take(&one);
        }
        assert_eq!(questions.heard.len(), MOST);
        let mut late = answer(8, SERVER, 0, Duration::ZERO);
        late.time_ns += 2 * AGE;
        questions.take(&late);
        assert_eq!(questions.heard.len(), 1);
    }
}
