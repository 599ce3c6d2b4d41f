//! What is new about a connection with each of its records, so that things that happen once a
//! connection are counted once.

use std::collections::HashMap;
use std::time::Duration;

use crate::flow::{Class, Event, Flow, NatKind, TcpState};

/// Something to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A connection that was not known.
    Opened(Class),
    /// Its ends became known better.
    Reclassed {
        /// What it was counted as.
        from: Class,
        /// What it is.
        to: Class,
    },
    /// A connection came to its end.
    Closed(Class),
    /// The handshake was measured.
    Handshake(Duration),
    /// One side reset it.
    Reset,
    /// It ended without an answer to the SYN.
    Unanswered,
    /// So many segments were sent again.
    Retransmits(u64),
    /// Its translation is known.
    Translation,
    /// The service that it was made to is known, and so is its translation.
    Service,
    /// Its translation is not what the configuration says.
    Mismatch,
}

/// What was counted of a connection.
#[derive(Clone, Copy, Default)]
struct Counted {
    class: Class,
    handshake: bool,
    reset: bool,
    retransmits: u64,
    translation: bool,
    service: bool,
    mismatch: bool,
}

/// The open connections; as many as the flow room keeps, for it closes each it opens.
#[derive(Default)]
pub(super) struct Connections(HashMap<u64, Counted>);

impl Connections {
    /// What a record has to say that earlier ones of its connection had not.
    pub(super) fn news(&mut self, flow: &Flow) -> Vec<News> {
        let mut news = Vec::new();
        // A drop may be all that is ever seen of a connection: it opens none.
        if flow.event == Event::Drop {
            return news;
        }
        let counted = self.0.entry(flow.connection).or_insert_with(|| {
            news.push(News::Opened(flow.class));
            Counted {
                class: flow.class,
                ..Counted::default()
            }
        });
        if counted.class != flow.class {
            news.push(News::Reclassed {
                from: counted.class,
                to: flow.class,
            });
            counted.class = flow.class;
        }
        let closing = flow.event == Event::Close;
        if let Some(tcp) = &flow.tcp {
            if let Some(time) = tcp.handshake_rtt.filter(|_| !counted.handshake) {
                counted.handshake = true;
                news.push(News::Handshake(time));
            }
            let segments = tcp.retransmits.0 + tcp.retransmits.1;
            if segments > counted.retransmits {
                news.push(News::Retransmits(segments - counted.retransmits));
                counted.retransmits = segments;
            }
            let reset = matches!(tcp.state, TcpState::Reset | TcpState::Refused);
            if reset && !counted.reset {
                counted.reset = true;
                news.push(News::Reset);
            }
            let silent = tcp.state == TcpState::SynSent && flow.reply.total.packets == 0;
            if closing && silent {
                news.push(News::Unanswered);
            }
        }
        // The first record may come before the packet reached a hook that knows.
        let known = flow.nat.source.is_some();
        let settled = closing || (known && flow.event != Event::Open);
        if !counted.translation && (settled || (known && flow.nat.kind != NatKind::None)) {
            counted.translation = true;
            news.push(News::Translation);
        }
        // The name may come later than the translation: the API answers when it does.
        if counted.translation && flow.destination_service.is_some() && !counted.service {
            counted.service = true;
            news.push(News::Service);
        }
        if flow.nat.is_mismatch() && !counted.mismatch {
            counted.mismatch = true;
            news.push(News::Mismatch);
        }
        if closing {
            news.push(News::Closed(counted.class));
            self.0.remove(&flow.connection);
        }
        news
    }
}
