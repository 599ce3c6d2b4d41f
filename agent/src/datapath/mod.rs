//! Everything that touches aya: load, attach, drain, events.

mod attach;
mod batch;
pub mod btf;
mod capability;
mod changes;
mod cost;
mod drops;
mod error;
mod events;
mod kernel_log;
pub mod ledger;
mod loading;
mod payload;
mod pins;
mod pods;
mod preflight;
mod programs;
mod records;
mod restart;
mod retransmits;
mod ring;
mod slots;
mod symbols;
mod unattributed;

use aya::maps::{HashMap as BpfHashMap, MapData, PerCpuArray, PerCpuHashMap};
use aya::programs::SchedClassifier;
use nodescope_ebpf::extra::SocketOffsets;
use nodescope_ebpf::{DNS_HEAD, DNS_QUESTION, EventKind};

pub use attach::{Method, Side};
pub use batch::Cursor;
pub use cost::ProgramCost;
pub use drops::{Dropped, Drops};
pub use error::Error;
pub use events::{Events, Told};
pub use ledger::Ledger;
pub use loading::give_back;
pub use payload::{Head, Heads, ProbeEnds, ProbePorts};
pub use pins::Pinning;
pub use preflight::{Preflight, PreflightItem, Verdict, preflight};
pub use programs::Program;
pub use restart::{Detached, detach};
pub use symbols::Symbols;

use attach::Extent;
use loading::{chain, kernel_types, lift_memlock, log_level, offsets, refused};
use pods::{CounterPod, Key, NatValue, OffsetsPod, Record, SocketPod, UnattributedPod};

/// What to load.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Connections at a time; each has a record at every hook that it passes.
    pub max_connections: u32,
    /// Read translations from `skb->_nfct`.
    pub nat: bool,
    /// Read the questions of DNS answers, not their headers alone.
    pub dns_questions: bool,
    /// How programs hang on interfaces; `None` for the best that this kernel offers.
    pub method: Option<Method>,
    /// Where they and the maps outlive the agent; `None` for nowhere.
    pub pinning: Option<Pinning>,
}

/// Room in the table of records for each connection that is kept. A connection passes four hooks
/// of one node at the most in the usual models: two pods and a bridge both ways, or a pod, a
/// bridge and an uplink. The rest is for floods, which come faster than they are read: three times
/// as many connections as are kept. Records take memory when they are made, so room takes none.
pub const HOPS_PER_CONNECTION: u32 = 12;

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nodescope-ebpf.o"));
/// The same for an agent without CAP_PERFMON.
const CAREFUL: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/careful.o"));
const PROGRAMS: [&str; 4] = ["port_ingress", "host_ingress", "port_egress", "host_egress"];
const HOPS: &str = "HOPS";
const NAT: &str = "NAT";
const EXTRA: &str = "EXTRA";
const PORTS: &str = "PORTS";
const PORT_SLOTS: &str = "PORT_SLOTS";
const OFFLOAD: &str = "OFFLOAD";
const UNATTRIBUTED: &str = "UNATTRIBUTED";
const UNPLACED: &str = "UNPLACED";
const LOST: &str = "LOST";
/// Entries of a batch look-up: half a megabyte of buffer.
const BATCH: usize = 4096;

/// The kernel side, loaded.
pub struct Datapath {
    ebpf: aya::Ebpf,
    attached: attach::Attached,
    hops: MapData,
    nat: BpfHashMap<MapData, Key, NatValue>,
    extra: MapData,
    retransmits: retransmits::Retransmits,
    ports: BpfHashMap<MapData, u32, u32>,
    port_slots: slots::PortSlots,
    offload: slots::Offload,
    unattributed: PerCpuHashMap<MapData, UnattributedPod, CounterPod>,
    unplaced: PerCpuArray<MapData, CounterPod>,
    lost: PerCpuArray<MapData, u64>,
    changes: changes::Changes,
    batches: batch::Batches<Key, Record>,
    /// Why translations are not read from packets, when they are not.
    nat_off: Option<String>,
    capacity: u32,
    drops: Option<drops::Plan>,
    restart: restart::Restart,
}

impl Datapath {
    /// Loads programs and maps; nothing is attached yet.
    ///
    /// # Errors
    ///
    /// The kernel refuses them, or another agent has what is pinned.
    pub fn load(settings: &Settings) -> Result<Self, Error> {
        lift_memlock();
        let capacity = settings.max_connections.saturating_mul(HOPS_PER_CONNECTION);
        let object = object();
        let sizes = sizes(capacity);
        let restart = restart::Restart::begin(settings, object, &sizes)?;
        let types = kernel_types();
        let sockets = types
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|types| types.sockets().map_err(|error| error.to_string()));
        let drops = drops::Plan::of(types.as_ref());
        let (offsets, nat_off) = match offsets(settings, types) {
            Ok(offsets) => (offsets, None),
            Err(why) => (nodescope_ebpf::Offsets::default(), Some(why)),
        };
        let offsets = OffsetsPod(offsets);
        let known = SocketPod(
            sockets
                .as_ref()
                .map_or(SocketOffsets::default(), |known| *known),
        );
        let (drop_offsets, level) = (drops.offsets(), log_level());
        let dns_bytes = if settings.dns_questions {
            DNS_QUESTION
        } else {
            DNS_HEAD
        } as u32;
        let mut loader = aya::EbpfLoader::new();
        loader
            // Without relocations against the kernel's types its BTF need not be parsed.
            .btf(None)
            .override_global("OFFSETS", &offsets, true)
            .override_global("SOCKET", &known, true)
            // What the log does not take, the verifier cuts out.
            .override_global(aya_log::LEVEL, &level, false)
            .override_global("DNS_BYTES", &dns_bytes, true)
            .override_global(drops::OFFSETS, &drop_offsets, true);
        for (name, entries) in sizes {
            loader.map_max_entries(name, entries);
        }
        for (name, file) in restart.maps() {
            loader.map_pin_path(name, file);
        }
        let mut ebpf = loader
            .load(object)
            .map_err(|error| Error::Load(chain(&error)))?;
        for name in PROGRAMS {
            let program: &mut SchedClassifier = ebpf
                .program_mut(name)
                .ok_or(Error::Incomplete(name))?
                .try_into()
                .map_err(|error| Error::Load(chain(&error)))?;
            program.load().map_err(|error| refused(&error))?;
        }
        let hops = match ebpf.take_map(HOPS) {
            Some(aya::maps::Map::HashMap(data)) => data,
            _ => return Err(Error::Incomplete(HOPS)),
        };
        let extra = match ebpf.take_map(EXTRA) {
            Some(aya::maps::Map::HashMap(data)) => data,
            _ => return Err(Error::Incomplete(EXTRA)),
        };
        let started = std::time::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
            .as_millis() as u64;
        Ok(Self {
            attached: attach::Attached::new(settings.method, restart.filtered()),
            hops,
            nat: typed(&mut ebpf, NAT)?,
            extra,
            retransmits: retransmits::Retransmits::start(&mut ebpf, &sockets)?,
            ports: typed(&mut ebpf, PORTS)?,
            port_slots: slots::PortSlots::new(typed(&mut ebpf, PORT_SLOTS)?),
            offload: slots::Offload::new(typed(&mut ebpf, OFFLOAD)?),
            unattributed: typed(&mut ebpf, UNATTRIBUTED)?,
            unplaced: typed(&mut ebpf, UNPLACED)?,
            lost: typed(&mut ebpf, LOST)?,
            changes: changes::Changes::take(&mut ebpf, started)?,
            batches: batch::Batches::new(BATCH),
            nat_off,
            capacity,
            drops: Some(drops),
            restart: restart.ready()?,
            ebpf,
        })
    }

    /// Why translations are not read from packets; `None` when they are.
    pub fn nat_off(&self) -> Option<&str> {
        self.nat_off.as_deref()
    }

    /// The programs that are loaded, and what the verifier made of them.
    pub fn programs(&self) -> Vec<Program> {
        programs::loaded(&self.ebpf)
    }

    /// Entries that the table of hop records holds at most.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How programs hang on interfaces, where nothing speaks against it.
    pub fn method(&self) -> Method {
        self.attached.method()
    }

    /// How programs hang on this interface; `None` when there are none.
    pub fn method_at(&self, ifindex: u32) -> Option<Method> {
        self.attached.method_at(ifindex)
    }

    /// One of the programs, by name: for test runs, which measure it or feed it frames by hand.
    pub fn program(&self, name: &str) -> Option<&SchedClassifier> {
        self.ebpf.program(name)?.try_into().ok()
    }

    /// Hangs both hooks on an interface; nothing happens when they are there.
    ///
    /// # Errors
    ///
    /// The kernel refuses; then neither hook is left.
    pub fn attach(&mut self, ifindex: u32, name: &str, side: Side) -> Result<(), Error> {
        let extent = Extent {
            count: 2,
            hurry: false,
        };
        self.attach_first(ifindex, name, side, extent)
    }

    /// Hangs the hook on what an interface receives, and leaves the other to [`Self::attach`].
    /// With `hurry`, because many interfaces wait, it is done by the quickest method, unless the
    /// settings name one.
    ///
    /// # Errors
    ///
    /// The kernel refuses; then none is left.
    pub fn attach_ingress(
        &mut self,
        ifindex: u32,
        name: &str,
        side: Side,
        hurry: bool,
    ) -> Result<(), Error> {
        self.attach_first(ifindex, name, side, Extent { count: 1, hurry })
    }

    fn attach_first(
        &mut self,
        ifindex: u32,
        name: &str,
        side: Side,
        extent: Extent,
    ) -> Result<(), Error> {
        let (pins, place) = (self.restart.pins(), (ifindex, name));
        self.attached
            .attach_first(&mut self.ebpf, pins, place, side, extent)
    }

    /// All interfaces that were there at the start have been seen: those that come now were
    /// touched by no earlier agent.
    pub fn settled(&mut self) {
        self.attached.settled();
    }

    /// Takes the hooks off an interface.
    pub fn detach(&mut self, ifindex: u32) {
        self.attached.detach(ifindex);
    }

    /// Whether an interface has its hooks.
    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.attached.has(ifindex)
    }

    /// Interfaces that have hooks, by index.
    pub fn interfaces(&self) -> Vec<u32> {
        self.attached.interfaces()
    }

    /// Says which bridge an interface is a port of, or that it is none's.
    pub fn set_master(&mut self, ifindex: u32, bridge: Option<u32>) {
        let known = self.ports.get(&ifindex, 0).ok();
        if known == bridge {
            return;
        }
        let result = match bridge {
            Some(bridge) => self
                .ports
                .insert(ifindex, bridge, 0)
                .and_then(|()| self.port_slots.set(ifindex, true)),
            None => self.ports.remove(&ifindex).and_then(|()| {
                let slot = nodescope_ebpf::slots::of_port;
                let mut left = self.ports.keys().filter_map(Result::ok);
                let any = left.any(|port| slot(port) == slot(ifindex));
                self.port_slots.set(ifindex, any)
            }),
        };
        if let Err(error) = result {
            tracing::warn!(ifindex, %error, "the port of a bridge is not known to the kernel side");
        }
    }

    /// New records of which the ring had no room to tell, since the load.
    pub fn lost_opens(&self) -> u64 {
        let lost = self.lost.get(&(EventKind::Open as u32), 0);
        lost.map_or(0, |values| values.iter().sum())
    }

    /// Events that found the ring full, by [`EventKind`].
    pub fn lost(&self) -> [u64; EventKind::COUNT as usize] {
        std::array::from_fn(|kind| {
            self.lost
                .get(&(kind as u32), 0)
                .map_or(0, |values| values.iter().sum())
        })
    }

    /// The event ring; it can be taken once.
    ///
    /// # Errors
    ///
    /// It was taken, or cannot be mapped.
    pub fn events(&mut self) -> Result<Events, Error> {
        Events::take(&mut self.ebpf)
    }

    /// The ring of payload heads and the map that says whose; they can be taken once.
    ///
    /// # Errors
    ///
    /// They were taken, or cannot be mapped.
    pub fn payload(&mut self) -> Result<(Heads, ProbePorts), Error> {
        Ok((
            Heads::take(&mut self.ebpf)?,
            ProbePorts::take(&mut self.ebpf)?,
        ))
    }
}

/// The object for an agent with these rights.
fn object() -> &'static [u8] {
    if capability::may_read_kernel() {
        return OBJECT;
    }
    tracing::warn!(
        "without CAP_PERFMON packets are read by helpers, which takes longer, and the kernel side \
         has no log"
    );
    CAREFUL
}

/// Maps whose size follows from the number of records in the table.
fn sizes(capacity: u32) -> [(&'static str, u32); 3] {
    [
        (HOPS, capacity),
        (NAT, capacity / 2),
        (EXTRA, (capacity / 8).max(1024)),
    ]
}

fn typed<M: TryFrom<aya::maps::Map>>(ebpf: &mut aya::Ebpf, name: &'static str) -> Result<M, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Incomplete(name))?;
    M::try_from(map).map_err(|_| Error::Incomplete(name))
}
