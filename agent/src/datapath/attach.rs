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

/// Which program counts an interface's ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// Every frame that comes in: a pod's interface, a port of a bridge.
    Port,
    /// Only frames for this host: a bridge, an uplink.
    Host,
}

impl Ingress {
    fn program(self) -> &'static str {
        match self {
            Self::Port => "port_ingress",
            Self::Host => "host_ingress",
        }
    }
}

const EGRESS: &str = "egress";

/// clsact filters of the agent carry this priority, so that they are known after a crash.
const PRIORITY: u16 = 49_817;

struct Hooks {
    ingress: (&'static str, SchedClassifierLinkId),
    egress: SchedClassifierLinkId,
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

    /// Whether an interface has its hooks.
    pub fn has(&self, ifindex: u32) -> bool {
        self.hooks.contains_key(&ifindex)
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
        ingress: Ingress,
    ) -> Result<(), Error> {
        if self.has(ifindex) {
            return Ok(());
        }
        if self.method == Method::Clsact {
            clear(name);
        }
        let program = ingress.program();
        let failed = |source| Error::Attach {
            interface: name.to_owned(),
            source: Box::new(source),
        };
        let first =
            attach(ebpf, program, name, TcAttachType::Ingress, self.method).map_err(failed)?;
        match attach(ebpf, EGRESS, name, TcAttachType::Egress, self.method) {
            Ok(egress) => {
                let ingress = (program, first);
                self.hooks.insert(ifindex, Hooks { ingress, egress });
                Ok(())
            }
            Err(error) => {
                let _ = detach(ebpf, program, first);
                Err(failed(error))
            }
        }
    }

    /// Takes the hooks off an interface. One that is gone has taken them along: no error.
    pub fn detach(&mut self, ebpf: &mut aya::Ebpf, ifindex: u32) {
        if let Some(Hooks { ingress, egress }) = self.hooks.remove(&ifindex) {
            for (program, link) in [ingress, (EGRESS, egress)] {
                if let Err(error) = detach(ebpf, program, link) {
                    tracing::debug!(ifindex, program, %error, "the hook was gone already");
                }
            }
        }
    }

    /// Interfaces that have hooks.
    pub fn interfaces(&self) -> Vec<u32> {
        self.hooks.keys().copied().collect()
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
    interface: &str,
    direction: TcAttachType,
    method: Method,
) -> Result<SchedClassifierLinkId, ProgramError> {
    let options = match method {
        // Last: whoever drops or redirects before us is seen as the interface sees it.
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
    program(ebpf, name)?.attach_with_options(interface, direction, options)
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
    for (direction, name) in [
        (TcAttachType::Ingress, "port_ingress"),
        (TcAttachType::Ingress, "host_ingress"),
        (TcAttachType::Egress, EGRESS),
    ] {
        if aya::programs::tc::qdisc_detach_program(interface, direction, name).is_ok() {
            tracing::info!(
                interface,
                program = name,
                "removed a filter of an earlier run"
            );
        }
    }
}
