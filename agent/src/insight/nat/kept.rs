//! What is kept of an open connection's translation, in little room: there is one of each
//! connection, and their names are few.

use std::collections::HashSet;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::SystemTime;

use super::Translation;
use super::ports::Use;
use crate::flow::{Expected, Nat, NatCause, NatKind, NatSource, Protocol, Tuple};

/// A translation without the connection's id.
#[derive(Debug)]
pub(super) struct Kept {
    started: SystemTime,
    ends: Ends,
    pub(super) names: Arc<Names>,
    protocol: Protocol,
    kind: NatKind,
    cause: NatCause,
    expected: Expected,
    source: Option<NatSource>,
}

const _: () = assert!(size_of::<Kept>() <= 64);

/// Source and destination before translation, and after.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ends {
    V4([SocketAddrV4; 4]),
    Other(Box<[SocketAddr; 4]>),
}

/// What connections share.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Names {
    pub(super) because: Option<Arc<str>>,
    pub(super) source: Arc<str>,
    pub(super) destination: Arc<str>,
    pub(super) service: Arc<str>,
    /// Whose port a translation takes.
    pub(super) pod: Arc<str>,
}

impl Names {
    /// The same with another reason.
    pub(super) fn with(&self, because: Option<Arc<str>>) -> Self {
        Self {
            because,
            source: Arc::clone(&self.source),
            destination: Arc::clone(&self.destination),
            service: Arc::clone(&self.service),
            pod: Arc::clone(&self.pod),
        }
    }
}

/// Names that are in use, each once.
#[derive(Debug, Default)]
pub(super) struct Pool {
    all: HashSet<Arc<Names>>,
    /// How many may be there before those are looked for that nobody uses any more.
    room: usize,
}

impl Pool {
    /// The one of these names.
    pub(super) fn share(&mut self, names: Names) -> Arc<Names> {
        const SMALL: usize = 1024;
        if let Some(known) = self.all.get(&names) {
            return Arc::clone(known);
        }
        if self.all.len() >= self.room {
            self.all.retain(|names| Arc::strong_count(names) > 1);
            self.room = self.all.len().max(SMALL) * 2;
        }
        let names = Arc::new(names);
        self.all.insert(Arc::clone(&names));
        names
    }
}

impl Ends {
    fn of(nat: &Nat) -> Self {
        let (before, after) = (nat.original, nat.translated);
        let all = [
            before.source,
            before.destination,
            after.source,
            after.destination,
        ];
        match all {
            [
                SocketAddr::V4(a),
                SocketAddr::V4(b),
                SocketAddr::V4(c),
                SocketAddr::V4(d),
            ] => Self::V4([a, b, c, d]),
            _ => Self::Other(Box::new(all)),
        }
    }

    fn all(&self) -> [SocketAddr; 4] {
        match self {
            Self::V4(all) => all.map(SocketAddr::V4),
            Self::Other(all) => **all,
        }
    }
}

impl Kept {
    /// What is to be kept of these.
    pub(super) fn new(started: SystemTime, nat: &Nat, names: Arc<Names>) -> Self {
        Self {
            started,
            ends: Ends::of(nat),
            names,
            protocol: nat.original.protocol,
            kind: nat.kind,
            cause: nat.cause,
            expected: nat.expected,
            source: nat.source,
        }
    }

    /// The translation as it was.
    pub(super) fn nat(&self) -> Nat {
        let [source, destination, after, to] = self.ends.all();
        let tuple = |source, destination| Tuple {
            source,
            destination,
            protocol: self.protocol,
        };
        Nat {
            kind: self.kind,
            original: tuple(source, destination),
            translated: tuple(after, to),
            cause: self.cause,
            expected: self.expected,
            source: self.source,
        }
    }

    /// Takes over what is known now of the same translation.
    pub(super) fn update(&mut self, nat: &Nat) {
        self.ends = Ends::of(nat);
        self.kind = nat.kind;
        self.cause = nat.cause;
        self.expected = nat.expected;
        self.source = nat.source;
    }

    /// The port that it takes.
    pub(super) fn taken(&self) -> Option<Use> {
        Use::of(&self.nat(), &self.names.pod)
    }

    /// With everything that is shown.
    pub(super) fn translation(&self, connection: u64) -> Translation {
        let names = &self.names;
        Translation {
            connection,
            started: self.started,
            nat: self.nat(),
            because: names.because.clone(),
            source: Arc::clone(&names.source),
            destination: Arc::clone(&names.destination),
            service: Arc::clone(&names.service),
        }
    }
}
