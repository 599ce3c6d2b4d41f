//! Programs on interfaces: TCX links where the kernel has them, clsact filters before.

use std::collections::{HashMap, HashSet};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;

use super::Error;
use super::pins::Pins;

/// How a program hangs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// A TCX link (6.6 and later): gone with the agent unless it is pinned, beside other people's
    /// programs.
    Tcx,
    /// A clsact filter through netlink.
    Clsact,
}

impl Method {
    /// What this kernel offers.
    pub fn of_this_kernel() -> Self {
        match KernelVersion::current() {
            Ok(version) if version >= KernelVersion::new(6, 6, 0) => Self::Tcx,
            _ => Self::Clsact,
        }
    }

    /// The word in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Which programs count at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Every frame is its own: a pod's interface, a port of a bridge.
    Port,
    /// Some frames are only passing: a bridge, an uplink.
    Host,
}

impl Side {
    fn programs(self) -> [(&'static str, TcAttachType); 2] {
        let [ingress, egress] = match self {
            Self::Port => ["port_ingress", "port_egress"],
            Self::Host => ["host_ingress", "host_egress"],
        };
        [
            (ingress, TcAttachType::Ingress),
            (egress, TcAttachType::Egress),
        ]
    }
}

/// clsact filters of the agent carry this priority and handle, so that the next agent can put its
/// programs in their place.
const PRIORITY: u16 = 49_817;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// What holds a program on an interface.
enum Held {
    /// Let go of, the program goes.
    Owned(SchedClassifierLink),
    /// The file holds it.
    Pinned(PinnedLink),
}

struct Hooks {
    side: Side,
    method: Method,
    links: Vec<Held>,
}

/// An interface, as the kernel's calls want it named.
#[derive(Clone, Copy)]
struct Place<'a> {
    ifindex: u32,
    name: &'a str,
    direction: TcAttachType,
}

/// Which hooks of an interface are wanted now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// The first so many of two: ingress, egress.
    pub(super) count: usize,
    /// Many interfaces wait for theirs.
    pub(super) hurry: bool,
}

/// What is attached.
pub struct Attached {
    method: Method,
    /// Whether it is the only one that may be used.
    strict: bool,
    /// Whether interfaces may have filters of an earlier agent that nobody noted.
    early: bool,
    hooks: HashMap<u32, Hooks>,
    /// Interfaces whose clsact qdisc this process made.
    qdiscs: HashSet<u32>,
    /// Interfaces that have clsact filters of an earlier agent.
    filtered: HashSet<u32>,
}

impl Attached {
    /// Nothing yet. `wanted` is the only method, or `None` for what is best here; `filtered` are
    /// interfaces that have clsact filters of an earlier agent.
    pub fn new(wanted: Option<Method>, filtered: HashSet<u32>) -> Self {
        Self {
            method: wanted.unwrap_or_else(Method::of_this_kernel),
            strict: wanted.is_some(),
            early: true,
            hooks: HashMap::new(),
            qdiscs: HashSet::new(),
            filtered,
        }
    }

    /// How programs hang on interfaces here.
    pub fn method(&self) -> Method {
        self.method
    }

    /// How they hang on this one, which has hooks.
    pub fn method_at(&self, ifindex: u32) -> Option<Method> {
        Some(self.hooks.get(&ifindex)?.method)
    }

    /// All interfaces that were there at the start have been seen.
    pub fn settled(&mut self) {
        self.early = false;
    }

    /// How programs shall hang on an interface that has none of this agent's. In a `hurry` it is
    /// by the method that makes nobody wait: a TCX link costs a grace period of RCU
    /// (kernel/bpf/tcx.c, `tcx_entry_sync`), a filter does not.
    fn choose(&self, ifindex: u32, hurry: bool) -> Method {
        // A filter of an earlier agent is replaced at one stroke; a link in its place would leave
        // a gap.
        let filter = hurry || self.filtered.contains(&ifindex);
        if filter && !self.strict {
            Method::Clsact
        } else {
            self.method
        }
    }

    /// Whether an interface has both its hooks.
    pub fn has(&self, ifindex: u32) -> bool {
        let hooks = self.hooks.get(&ifindex);
        hooks.is_some_and(|hooks| hooks.links.len() == hooks.side.programs().len())
    }

    /// Hangs the first hooks (ingress, egress) on an interface, in place of those of an
    /// earlier agent; nothing happens when they are there.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or another interface has the name by now; then neither is left.
    pub(super) fn attach_first(
        &mut self,
        ebpf: &mut aya::Ebpf,
        pins: Option<&Pins>,
        (ifindex, name): (u32, &str),
        side: Side,
        Extent { count, hurry }: Extent,
    ) -> Result<(), Error> {
        match self.hooks.get(&ifindex) {
            Some(hooks) if hooks.side == side && hooks.links.len() >= count => return Ok(()),
            // It has become something else, an uplink for example.
            Some(hooks) if hooks.side != side => self.detach(ifindex),
            _ => {}
        }
        let (method, mut links) = match self.hooks.remove(&ifindex) {
            Some(hooks) => (hooks.method, hooks.links),
            None => {
                let method = self.choose(ifindex, hurry);
                self.clear_way(method, pins, ifindex, name);
                (method, Vec::new())
            }
        };
        let wanted = side.programs().into_iter().take(count);
        for (program, direction) in wanted.skip(links.len()) {
            let place = Place {
                ifindex,
                name,
                direction,
            };
            match self.hang(ebpf, method, pins, program, place) {
                Ok(link) => links.push(link),
                Err(source) => {
                    links.into_iter().for_each(|link| release(ifindex, link));
                    return Err(Error::Attach {
                        interface: name.to_owned(),
                        source: Box::new(source),
                    });
                }
            }
        }
        let hooks = Hooks {
            side,
            method,
            links,
        };
        self.hooks.insert(ifindex, hooks);
        Ok(())
    }

    /// Removes what a run of the other method left on an interface.
    fn clear_way(&mut self, method: Method, pins: Option<&Pins>, ifindex: u32, name: &str) {
        match (method, pins) {
            // Links of a run that used them.
            (Method::Clsact, Some(pins)) => pins.unlink(ifindex),
            // Filters that nobody may take over.
            (Method::Clsact, None) => {
                clear(name);
            }
            // Filters of a run that used them, or was in a hurry.
            (Method::Tcx, pins) => {
                if self.filtered.remove(&ifindex) || self.early && pins.is_none() {
                    clear(name);
                }
            }
        }
    }

    fn hang(
        &mut self,
        ebpf: &mut aya::Ebpf,
        method: Method,
        pins: Option<&Pins>,
        program: &str,
        place: Place<'_>,
    ) -> Result<Held, ProgramError> {
        has_name(place)?;
        let held = match method {
            Method::Tcx => attach_tcx(ebpf, pins, program, place)?,
            Method::Clsact => self.attach_clsact(ebpf, pins.is_some(), program, place)?,
        };
        // Meanwhile, too.
        if let Err(error) = has_name(place) {
            release(place.ifindex, held);
            return Err(error);
        }
        Ok(held)
    }

    /// Takes the hooks off an interface. One that is gone has taken them along: no error.
    pub fn detach(&mut self, ifindex: u32) {
        let hooks = self.hooks.remove(&ifindex);
        let links = hooks.into_iter().flat_map(|hooks| hooks.links);
        links.for_each(|link| release(ifindex, link));
    }

    /// Takes all hooks off.
    pub fn detach_all(&mut self) {
        for ifindex in self.interfaces() {
            self.detach(ifindex);
        }
    }

    /// Leaves every program where it is when this process ends.
    pub fn keep(&mut self) {
        for link in self.hooks.drain().flat_map(|(_, hooks)| hooks.links) {
            // A clsact filter is removed by its link's destructor, a pinned link only by hand.
            if let Held::Owned(link) = link {
                std::mem::forget(link);
            }
        }
    }

    /// Interfaces that have hooks, or one of the two.
    pub fn interfaces(&self) -> Vec<u32> {
        self.hooks.keys().copied().collect()
    }

    /// Whether this process made the clsact qdisc of an interface.
    pub fn made_qdisc(&self, ifindex: u32) -> bool {
        self.qdiscs.contains(&ifindex)
    }

    /// Puts the program into the filter of an earlier agent, or makes a filter.
    fn attach_clsact(
        &mut self,
        ebpf: &mut aya::Ebpf,
        replace: bool,
        name: &str,
        place: Place<'_>,
    ) -> Result<Held, ProgramError> {
        let Place {
            ifindex,
            name: interface,
            direction,
        } = place;
        match qdisc_add_clsact(interface) {
            Ok(()) => {
                self.qdiscs.insert(ifindex);
            }
            // There already, ours or another's.
            Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => tracing::debug!(interface, %error, "clsact was not added"),
        }
        let program = program(ebpf, name)?;
        if replace {
            let earlier =
                SchedClassifierLink::attached(interface, direction, PRIORITY, HANDLE, None)
                    .map_err(TcError::IoError)?;
            // There may be none.
            if let Ok(id) = program.attach_to_link(earlier) {
                return program.take_link(id).map(Held::Owned);
            }
        }
        let options = TcAttachOptions::Netlink(NlOptions {
            priority: PRIORITY,
            handle: HANDLE,
            ..NlOptions::default()
        });
        let id = program.attach_with_options(interface, direction, options)?;
        program.take_link(id).map(Held::Owned)
    }
}

fn release(ifindex: u32, link: Held) {
    match link {
        // The destructor detaches; an interface that is gone has taken its program along.
        Held::Owned(link) => drop(link),
        Held::Pinned(link) => {
            if let Err(error) = link.unpin() {
                tracing::debug!(ifindex, %error, "the pinned link was gone already");
            }
        }
    }
}

fn program<'a>(
    ebpf: &'a mut aya::Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, ProgramError> {
    ebpf.program_mut(name)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()
}

/// Puts the program into the link of an earlier agent, at one stroke, or makes a link.
fn attach_tcx(
    ebpf: &mut aya::Ebpf,
    pins: Option<&Pins>,
    name: &str,
    place: Place<'_>,
) -> Result<Held, ProgramError> {
    let program = program(ebpf, name)?;
    let egress = matches!(place.direction, TcAttachType::Egress);
    let path = pins.map(|pins| pins.link(place.ifindex, egress));
    if let Some(path) = path.as_ref().filter(|path| path.exists()) {
        let updated = PinnedLink::from_pin(path)
            .and_then(|pinned| SchedClassifierLink::try_from(FdLink::from(pinned)))
            .map_err(|error| super::chain(&error))
            .and_then(|link| {
                let id = program.attach_to_link(link);
                id.map_err(|error| super::chain(&error))
            })
            .and_then(|id| {
                // The file holds the link; this is another handle to it.
                drop(
                    program
                        .take_link(id)
                        .map_err(|error| super::chain(&error))?,
                );
                PinnedLink::from_pin(path).map_err(|error| super::chain(&error))
            });
        match updated {
            Ok(pinned) => return Ok(Held::Pinned(pinned)),
            Err(error) => {
                // Its interface is gone, and this is another one of the same index.
                tracing::debug!(interface = place.name, %error, "a link of an earlier run leads nowhere");
                let _ = std::fs::remove_file(path);
            }
        }
    }
    // First: what others drop or redirect after us did come in, and the interface counted it.
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(place.name, place.direction, options)?;
    let link = program.take_link(id)?;
    let Some(path) = path else {
        return Ok(Held::Owned(link));
    };
    let link = FdLink::try_from(link).map_err(|_| ProgramError::NotAttached)?;
    link.pin(&path).map(Held::Pinned).map_err(|error| {
        tracing::warn!(interface = place.name, %error, "the link cannot be pinned");
        ProgramError::NotAttached
    })
}

/// Interfaces are attached to by name, and names change: one that was this interface's may be
/// another's by now.
fn has_name(place: Place<'_>) -> Result<(), ProgramError> {
    let io = |text: String| ProgramError::IOError(std::io::Error::other(text));
    let terminated = std::ffi::CString::new(place.name).map_err(|error| io(error.to_string()))?;
    // SAFETY: a string that ends in a zero, and is only read.
    let found = unsafe { libc::if_nametoindex(terminated.as_ptr()) };
    let ifindex = place.ifindex;
    if found == ifindex {
        return Ok(());
    }
    Err(io(match found {
        0 => "there is no interface of this name any more".to_owned(),
        other => format!("it is the name of interface {other} by now, not of {ifindex}"),
    }))
}

/// Removes clsact filters that an earlier agent left. They are known by their names.
pub(super) fn clear(interface: &str) -> bool {
    let all = [Side::Port, Side::Host].map(Side::programs);
    let mut any = false;
    for (name, direction) in all.into_iter().flatten() {
        if qdisc_detach_program(interface, direction, name).is_ok() {
            any = true;
            tracing::info!(
                interface,
                program = name,
                "removed a filter of an earlier run"
            );
        }
    }
    any
}
