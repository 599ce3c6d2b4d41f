//! The check of DNS servers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::traffic::older;
use super::{Facts, Finding, count};
use crate::flow::{Flow, Protocol};
use crate::insight::dns::{Codes, PORT};

/// What resolvers wait for an answer (resolv.conf(5), `timeout`).
const PATIENCE: Duration = Duration::from_secs(5);

/// Conversations with one server.
#[derive(Default)]
struct Asked {
    all: usize,
    silent: usize,
    /// With an answer that says that the server could not, or would not.
    failed: usize,
    /// Answered, but the header of no answer was captured.
    unread: usize,
    codes: Codes,
}

impl Asked {
    fn is_wrong(&self) -> bool {
        self.silent + self.failed > 0
    }
}

/// Questions to DNS servers are answered: NXDOMAIN is an answer, SERVFAIL and REFUSED are none.
pub(super) fn answers(facts: &Facts<'_>) -> Finding {
    let mut servers: BTreeMap<SocketAddr, Asked> = BTreeMap::new();
    let is_dns = |flow: &&Arc<Flow>| {
        flow.tuple.protocol == Protocol::UDP && flow.tuple.destination.port() == PORT
    };
    for flow in facts.flows.iter().filter(is_dns) {
        let silent = flow.reply.total.packets == 0;
        if silent && !older(flow, facts, PATIENCE) {
            continue;
        }
        let asked = servers.entry(flow.tuple.destination).or_default();
        asked.all += 1;
        match facts.dns.of(flow) {
            _ if silent => asked.silent += 1,
            None => asked.unread += 1,
            Some(codes) => {
                asked.failed += usize::from(codes.failed());
                asked.codes.add(codes);
            }
        }
    }
    let worst = servers
        .iter()
        .filter(|(_, asked)| asked.is_wrong())
        .max_by_key(|(_, asked)| asked.silent + asked.failed);
    if let Some((server, asked)) = worst {
        return Finding::fail(wrong(*server, asked));
    }
    if servers.is_empty() {
        return Finding::unknown("no question to a DNS server was seen of late");
    }
    if servers.values().all(|asked| asked.unread == asked.all) {
        return Finding::unknown(
            "DNS servers answer, but no answer's code was read: ask again after a question",
        );
    }
    let told: Vec<String> = servers
        .iter()
        .map(|(server, asked)| right(*server, asked))
        .collect();
    Finding::pass(format!("answered: {}", told.join(", ")))
}

fn wrong(server: SocketAddr, asked: &Asked) -> String {
    let mut parts = Vec::new();
    if asked.silent > 0 {
        parts.push(format!("{} without an answer", asked.silent));
    }
    if asked.failed > 0 {
        parts.push(format!(
            "{} answered with {}",
            asked.failed,
            asked.codes.failures()
        ));
    }
    format!(
        "{server}: of {} {}; is the server well (kubectl -n kube-system logs -l k8s-app=kube-dns), \
         and are its upstream servers?",
        count(asked.all, "conversation"),
        parts.join(", ")
    )
}

fn right(server: SocketAddr, asked: &Asked) -> String {
    let unread = match asked.unread {
        0 => String::new(),
        unread => format!(", the codes of {unread} not read"),
    };
    format!(
        "{server} all of {} ({}{unread})",
        count(asked.all, "conversation"),
        asked.codes
    )
}
