//! Frames for test runs, and the context that the kernel makes an skb with.

/// Addresses and ports of the one established flow.
const SOURCE: [u8; 4] = [10, 244, 0, 15];
const DESTINATION: [u8; 4] = [10, 224, 1, 2];
const PORTS: [u16; 2] = [60_996, 8080];

const ETHERNET: usize = 14;
const IPV4: usize = 20;

/// TCP flags of a segment in the middle of a transfer, and of one that opens a connection.
pub const ACK_PSH: u8 = 0x18;
/// See above.
pub const SYN: u8 = 0x02;

/// A UDP datagram in a frame of `length` bytes.
pub fn udp(length: usize) -> Vec<u8> {
    let mut datagram = ports();
    datagram.extend(((length - ETHERNET - IPV4) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    frame(17, &datagram, length)
}

/// A TCP segment in a frame of `length` bytes.
pub fn tcp(flags: u8, length: usize) -> Vec<u8> {
    let mut segment = ports();
    segment.extend([0; 8]);
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame(6, &segment, length)
}

fn ports() -> Vec<u8> {
    PORTS.iter().flat_map(|port| port.to_be_bytes()).collect()
}

fn frame(protocol: u8, transport: &[u8], length: usize) -> Vec<u8> {
    // A test run's skb belongs to the loopback interface, whose address is all zeroes: with this
    // destination the frame is for this host.
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend(((length - ETHERNET) as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend(SOURCE);
    frame.extend(DESTINATION);
    frame.extend(transport);
    frame.resize(length, 0);
    frame
}

/// `struct __sk_buff` (uapi linux/bpf.h) as far as a test run takes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// Interface by which the packet came to this node, 0 for one of its own.
    pub ingress_ifindex: u32,
    /// `gso_segs` and `gso_size`: several segments in one skb.
    pub segments: u32,
    /// See above.
    pub segment_size: u32,
}

impl Context {
    /// Its bytes.
    pub fn bytes(self) -> [u8; 192] {
        let mut bytes = [0; 192];
        // Offsets of ingress_ifindex, gso_segs and gso_size.
        for (at, value) in [
            (36, self.ingress_ifindex),
            (164, self.segments),
            (176, self.segment_size),
        ] {
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }
}
