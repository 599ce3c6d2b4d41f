//! Programs on interfaces: TCX links where the kernel has them, clsact filters before.

use std::collections::HashMap;

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    tc::{NlOptions, SchedClassifierLinkId, TcAttachOptions, TcError, qdisc_add_clsact},
};
use aya::util::KernelVersion;

use super::Error;

/// How a program hangs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// A TCX link (6.6 and later): gone with the agent, beside other people's programs.
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

/// clsact filters of the agent carry this priority, so that they are known after a crash.
const PRIORITY: u16 = 49_817;

/// The programs of an interface and their links.
type Links = Vec<(&'static str, SchedClassifierLinkId)>;

struct Hooks {
    side: Side,
    links: Links,
}

/// What is attached.
pub struct Attached {
    method: Method,
    hooks: HashMap<u32, Hooks>,
}

impl Attached {
    /// Nothing yet.
    pub fn new(method: Method) -> Self {
        Self {
            method,
            hooks: HashMap::new(),
        }
    }

    /// How programs hang on interfaces here.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Whether an interface has both its hooks.
    pub fn has(&self, ifindex: u32) -> bool {
        let hooks = self.hooks.get(&ifindex);
        hooks.is_some_and(|hooks| hooks.links.len() == hooks.side.programs().len())
    }

    /// Hangs both hooks on an interface; nothing happens when they are there.
    ///
    /// # Errors
    ///
    /// The kernel refuses; then neither is left.
    pub fn attach(
        &mut self,
        ebpf: &mut aya::Ebpf,
        ifindex: u32,
        name: &str,
        side: Side,
    ) -> Result<(), Error> {
        self.attach_first(ebpf, ifindex, name, side, side.programs().len())
    }

    /// The same for the first `count` of the two: ingress, egress.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or another interface has the name by now; then neither is left.
    pub fn attach_first(
        &mut self,
        ebpf: &mut aya::Ebpf,
        ifindex: u32,
        name: &str,
        side: Side,
        count: usize,
    ) -> Result<(), Error> {
        match self.hooks.get(&ifindex) {
            Some(hooks) if hooks.side == side && hooks.links.len() >= count => return Ok(()),
            // It has become something else, an uplink for example.
            Some(hooks) if hooks.side != side => self.detach(ebpf, ifindex),
            _ => {}
        }
        let known = self.hooks.remove(&ifindex);
        if known.is_none() && self.method == Method::Clsact {
            clear(name);
        }
        let mut links = known.map_or_else(Links::new, |hooks| hooks.links);
        let wanted = side.programs().into_iter().take(count).skip(links.len());
        for (program, direction) in wanted {
            match attach(ebpf, program, (ifindex, name), direction, self.method) {
                Ok(link) => links.push((program, link)),
                Err(source) => {
                    release(ebpf, ifindex, links);
                    return Err(Error::Attach {
                        interface: name.to_owned(),
                        source: Box::new(source),
                    });
                }
            }
        }
        self.hooks.insert(ifindex, Hooks { side, links });
        Ok(())
    }

    /// Takes the hooks off an interface. One that is gone has taken them along: no error.
    pub fn detach(&mut self, ebpf: &mut aya::Ebpf, ifindex: u32) {
        if let Some(hooks) = self.hooks.remove(&ifindex) {
            release(ebpf, ifindex, hooks.links);
        }
    }

    /// Interfaces that have hooks, or one of the two.
    pub fn interfaces(&self) -> Vec<u32> {
        self.hooks.keys().copied().collect()
    }
}

fn release(ebpf: &mut aya::Ebpf, ifindex: u32, links: Links) {
    for (name, link) in links {
        if let Err(error) = detach(ebpf, name, link) {
            tracing::debug!(ifindex, program = name, %error, "the hook was gone already");
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

fn attach(
    ebpf: &mut aya::Ebpf,
    name: &str,
    (ifindex, interface): (u32, &str),
    direction: TcAttachType,
    method: Method,
) -> Result<SchedClassifierLinkId, ProgramError> {
    has_name(ifindex, interface)?;
    let options = match method {
        // First: what others drop or redirect after us did come in, and the interface counted it.
        Method::Tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
        Method::Clsact => {
            match qdisc_add_clsact(interface) {
                Ok(()) => {}
                // There already, ours or another's.
                Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {
                }
                Err(error) => tracing::debug!(interface, %error, "clsact was not added"),
            }
            TcAttachOptions::Netlink(NlOptions {
                priority: PRIORITY,
                ..NlOptions::default()
            })
        }
    };
    let link = program(ebpf, name)?.attach_with_options(interface, direction, options)?;
    // Meanwhile, too.
    if let Err(error) = has_name(ifindex, interface) {
        detach(ebpf, name, link)?;
        return Err(error);
    }
    Ok(link)
}

/// Interfaces are attached to by name, and names change: one that was this interface's may be
/// another's by now.
fn has_name(ifindex: u32, name: &str) -> Result<(), ProgramError> {
    let io = |text: String| ProgramError::IOError(std::io::Error::other(text));
    let terminated = std::ffi::CString::new(name).map_err(|error| io(error.to_string()))?;
    // SAFETY: a string that ends in a zero, and is only read.
    let found = unsafe { libc::if_nametoindex(terminated.as_ptr()) };
    if found == ifindex {
        return Ok(());
    }
    Err(io(match found {
        0 => "there is no interface of this name any more".to_owned(),
        other => format!("it is the name of interface {other} by now, not of {ifindex}"),
    }))
}

fn detach(
    ebpf: &mut aya::Ebpf,
    name: &str,
    link: SchedClassifierLinkId,
) -> Result<(), ProgramError> {
    program(ebpf, name)?.detach(link)
}

/// Removes clsact filters that a killed agent left behind. They are known by their names.
fn clear(interface: &str) {
    let all = [Side::Port, Side::Host].map(Side::programs);
    for (name, direction) in all.into_iter().flatten() {
        if aya::programs::tc::qdisc_detach_program(interface, direction, name).is_ok() {
            tracing::info!(
                interface,
                program = name,
                "removed a filter of an earlier run"
            );
        }
    }
}
