//! Frames whose packets the kernel keeps in pages, all but the first few bytes.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail, ensure};
use nix::libc;
use nix::sys::socket::sockopt::SetBool;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, send, setsockopt, socket,
};

nix::setsockopt_impl!(
    VnetHeader,
    libc::SOL_PACKET,
    libc::PACKET_VNET_HDR,
    bool,
    SetBool
);

/// Frames come with a `struct virtio_net_hdr` before them (packet(7), linux/virtio_net.h).
#[derive(Clone, Copy, Debug)]
struct VnetHeader;

/// Length of that header, and where in it `hdr_len` is.
const HEADER: usize = 10;
const HDR_LEN: std::ops::Range<usize> = 2..4;

/// Below a page the kernel keeps a frame in one piece (net/packet/af_packet.c,
/// `packet_alloc_skb`).
const PAGE: usize = 4096;

/// Sends each of `frames` out of `interface`, `count` times; only the first `linear` bytes of each
/// are where a network card's driver puts headers.
pub(super) fn send_paged(
    interface: &str,
    frames: &[Vec<u8>],
    count: u32,
    linear: u16,
) -> Result<u32> {
    if let Some(short) = frames.iter().find(|frame| frame.len() < PAGE) {
        bail!(
            "a frame of {} bytes lies in no page of its own",
            short.len()
        );
    }
    let address = address_of(interface)?;
    let out = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .context("a packet socket: run as root")?;
    setsockopt(&out, VnetHeader, &true)?;
    bind(out.as_raw_fd(), &address).with_context(|| format!("binding to {interface}"))?;
    let mut sent = 0;
    for _ in 0..count {
        for frame in frames {
            let mut packet = vec![0; HEADER];
            packet[HDR_LEN].copy_from_slice(&linear.to_ne_bytes());
            packet.extend(frame);
            let taken = send(out.as_raw_fd(), &packet, MsgFlags::empty())
                .with_context(|| format!("sending {} bytes", frame.len()))?;
            ensure!(taken == packet.len(), "{taken} bytes were taken");
            sent += 1;
        }
    }
    Ok(sent)
}

/// Where packet sockets bind to for an interface.
fn address_of(interface: &str) -> Result<LinkAddr> {
    let all = nix::ifaddrs::getifaddrs()?;
    let mut own = all.filter(|found| found.interface_name == interface);
    own.find_map(|found| found.address?.as_link_addr().copied())
        .with_context(|| format!("no interface '{interface}' here"))
}
