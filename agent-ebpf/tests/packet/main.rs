//! The parser of the kernel side, on frames made by hand.

use nodescope_ebpf::extra::TAG;
use nodescope_ebpf::packet::{
    Echo, Frame, Packet, Part, Plain, Start, Whole, plain, tcp_flag, tunnel, whole,
};
use nodescope_ebpf::{Kind, Reason, mapped};

mod nested;
mod plain;
mod tagged;

struct Bytes<'a>(&'a [u8]);

impl Frame for Bytes<'_> {
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        let bytes = self.0.get(at..at.checked_add(size_of::<T>())?)?;
        // SAFETY: the slice is as long as T, a header of plain bytes.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}

/// What a frame is; where both parsers read it, they must agree.
fn read(frame: &[u8]) -> Result<Packet, Reason> {
    read_long(frame, frame.len(), false)
}

fn read_long(frame: &[u8], length: usize, offloaded: bool) -> Result<Packet, Reason> {
    let mut found = Whole::EMPTY;
    let start = Start::Ethernet;
    let all = whole(&Bytes(frame), 0, start, length, offloaded, &mut found).map(|()| found.packet);
    for egress in [false, true] {
        if let Some(short) = plain(&Bytes(frame), length, offloaded, 7, egress) {
            let Ok(long) = all else {
                panic!("what is plain is a packet: {short:?}, {all:?}");
            };
            let (key, forward) = long.key(7, egress);
            let flags = long.flags;
            assert_eq!(
                short,
                Plain {
                    key,
                    forward,
                    flags
                }
            );
            assert!(found.is_plainly_laid_out());
        }
    }
    all
}

/// Everything about a frame that is a packet.
fn everything(frame: &[u8]) -> Whole {
    let mut found = Whole::EMPTY;
    let outcome = whole(
        &Bytes(frame),
        0,
        Start::Ethernet,
        frame.len(),
        false,
        &mut found,
    );
    assert_eq!(outcome, Ok(()));
    found
}

fn is_plain(frame: &[u8]) -> bool {
    plain(&Bytes(frame), frame.len(), false, 7, false).is_some()
}

fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet with `options` words of options.
fn ipv4(protocol: u8, options: usize, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options * 4;
    let mut ip = vec![0x40 | (header / 4) as u8, 0];
    ip.extend(((header + payload.len()) as u16).to_be_bytes());
    ip.extend([0, 1]);
    ip.extend(fragment.to_be_bytes());
    ip.extend([64, protocol, 0, 0]);
    ip.extend([10, 244, 0, 15]);
    ip.extend([10, 224, 1, 2]);
    ip.extend(vec![1; options * 4]);
    ip.extend(payload);
    ethernet(0x0800, &ip)
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((payload.len() as u16).to_be_bytes());
    ip.extend([next, 64]);
    ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    ip.extend(payload);
    ethernet(0x86dd, &ip)
}

fn tcp(flags: u8) -> Vec<u8> {
    let mut tcp = 60996u16.to_be_bytes().to_vec();
    tcp.extend(8080u16.to_be_bytes());
    tcp.extend([0; 8]);
    tcp.extend([0x50, flags]);
    tcp.extend([0, 1, 0, 0, 0, 0]);
    tcp
}
