//! Offsets of the running kernel's structures, read from its BTF.
//!
//! Only what is needed of the format: Documentation/bpf/btf.rst, uapi linux/btf.h. The types are
//! walked in place; a full parse of a vmlinux would cost tens of megabytes for four numbers.

mod drops;

use std::path::Path;

use bytes::Buf;
use nodescope_ebpf::{Offsets, extra::SocketOffsets};

pub use drops::DropTypes;

/// Where the kernel shows its types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why the offsets are not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{path}: {source} (NAT needs a kernel built with CONFIG_DEBUG_INFO_BTF)")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The bytes are no BTF, or break off.
    #[error("the kernel's BTF is malformed: {0}")]
    Malformed(&'static str),
    /// A structure or member is not there.
    #[error("the kernel's BTF has no {0} (is conntrack built in or loaded?)")]
    Missing(String),
}

/// `BTF_MAGIC`.
const MAGIC: u16 = 0xeb9f;
/// `struct btf_type` without what follows it.
const TYPE_SIZE: usize = 12;

/// Kinds (`BTF_KIND_*`), as far as their size or members matter here.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// A kernel's types.
pub struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Where each type starts in `types`; type 1 is the first.
    starts: Vec<u32>,
}

impl Btf {
    /// Reads the running kernel's.
    ///
    /// # Errors
    ///
    /// The file is unreadable or malformed.
    pub fn running() -> Result<Self, Error> {
        Self::file(Path::new(VMLINUX))
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// The file is unreadable or malformed.
    pub fn file(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::Unreadable {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(&bytes)
    }

    /// Reads bytes in the byte order of this machine.
    ///
    /// # Errors
    ///
    /// They are no BTF.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut header = bytes;
        if header.remaining() < 24 || header.get_u16_ne() != MAGIC {
            return Err(Error::Malformed("no header"));
        }
        header.advance(2);
        let length = header.get_u32_ne() as usize;
        let section = |offset: u32, size: u32| {
            let start = length.checked_add(offset as usize)?;
            bytes.get(start..start.checked_add(size as usize)?)
        };
        let (type_off, type_len) = (header.get_u32_ne(), header.get_u32_ne());
        let (str_off, str_len) = (header.get_u32_ne(), header.get_u32_ne());
        let types = section(type_off, type_len).ok_or(Error::Malformed("types past the end"))?;
        let strings = section(str_off, str_len).ok_or(Error::Malformed("strings past the end"))?;
        let mut btf = Self {
            types: types.to_vec(),
            strings: strings.to_vec(),
            starts: vec![0],
        };
        let mut at = 0;
        while at < btf.types.len() {
            btf.starts.push(at as u32);
            let (_, info, _) = btf.head(at).ok_or(Error::Malformed("a type breaks off"))?;
            at += TYPE_SIZE + trailing(info)?;
        }
        Ok(btf)
    }

    /// `name_off`, `info` and `size` or `type` of the type that starts at `at`.
    fn head(&self, at: usize) -> Option<(u32, u32, u32)> {
        let mut head = self.types.get(at..at + TYPE_SIZE)?;
        Some((head.get_u32_ne(), head.get_u32_ne(), head.get_u32_ne()))
    }

    fn string(&self, offset: u32) -> &[u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(0);
        &rest[..end]
    }

    /// Offset in bytes of a member of a structure, also one inside an anonymous member.
    ///
    /// # Errors
    ///
    /// There is no such structure or member, or the member is a bit field.
    pub fn offset(&self, structure: &str, member: &str) -> Result<u32, Error> {
        let missing = || Error::Missing(format!("{structure}.{member}"));
        let found = self.starts.iter().skip(1).find_map(|start| {
            let (name, info, _) = self.head(*start as usize)?;
            (kind_of(info) == kind::STRUCT && self.string(name) == structure.as_bytes())
                .then(|| self.member(*start as usize, member.as_bytes(), 0))
                .flatten()
        });
        let bits = found.ok_or_else(missing)?;
        if bits % 8 == 0 {
            Ok(bits / 8)
        } else {
            Err(missing())
        }
    }

    /// Offset in bits within the aggregate at `start`.
    fn member(&self, start: usize, wanted: &[u8], depth: u8) -> Option<u32> {
        let (_, info, _) = self.head(start)?;
        // The kind flag says that the upper byte of an offset is a bit field's width.
        let mask = if info >> 31 == 1 {
            0x00ff_ffff
        } else {
            u32::MAX
        };
        for index in 0..vlen(info) {
            let at = start + TYPE_SIZE + index * TYPE_SIZE;
            let (name, kind, offset) = self.head(at)?;
            let (name, offset) = (self.string(name), offset & mask);
            if name == wanted {
                return Some(offset);
            }
            if name.is_empty()
                && depth < 8
                && let Some(inner) = self.starts.get(kind as usize)
                && let Some((_, info, _)) = self.head(*inner as usize)
                && matches!(kind_of(info), kind::STRUCT | kind::UNION)
                && let Some(found) = self.member(*inner as usize, wanted, depth + 1)
            {
                return Some(offset + found);
            }
        }
        None
    }

    /// What the kernel side needs to read a socket's tuple, and the segments in a buffer of it.
    ///
    /// # Errors
    ///
    /// The kernel has no TCP.
    pub fn sockets(&self) -> Result<SocketOffsets, Error> {
        let common = |member: &str| self.offset("sock_common", member);
        Ok(SocketOffsets {
            family: common("skc_family")?,
            destination: common("skc_daddr")?,
            source: common("skc_rcv_saddr")?,
            destination_port: common("skc_dport")?,
            source_port: common("skc_num")?,
            // Not there without CONFIG_IPV6.
            destination6: common("skc_v6_daddr").unwrap_or(0),
            source6: common("skc_v6_rcv_saddr").unwrap_or(0),
            segments: self.offset("sk_buff", "cb")? + self.offset("tcp_skb_cb", "tcp_gso_segs")?,
        })
    }

    /// What the kernel side needs to read a packet's conntrack entry.
    ///
    /// # Errors
    ///
    /// The kernel has no conntrack.
    pub fn conntrack(&self) -> Result<Offsets, Error> {
        Ok(Offsets {
            nfct: self.offset("sk_buff", "_nfct")?,
            tuplehash: self.offset("nf_conn", "tuplehash")?,
            status: self.offset("nf_conn", "status")?,
            // `zone` is there with CONFIG_NF_CONNTRACK_ZONES only; its `id` comes first.
            zone: self.offset("nf_conn", "zone").unwrap_or(0),
            enabled: 1,
        })
    }
}

fn kind_of(info: u32) -> u32 {
    (info >> 24) & 0x1f
}

fn vlen(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// Bytes that follow a type's head.
fn trailing(info: u32) -> Result<usize, Error> {
    Ok(match kind_of(info) {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * vlen(info),
        kind::ENUM | kind::FUNC_PROTO => 8 * vlen(info),
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG.
        2 | 7 | kind::TYPEDEF | 9..=12 | 16 | 18 => 0,
        _ => return Err(Error::Malformed("a kind that is not known")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two types: an anonymous struct with `inner` at bit 32, and `outer` that holds it at 64.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0inner\0".to_vec();
        let words = |words: &[u32]| {
            words
                .iter()
                .flat_map(|w| w.to_ne_bytes())
                .collect::<Vec<_>>()
        };
        let types = [
            words(&[0, 4 << 24 | 1, 8, 7, 0, 32]),
            words(&[1, 4 << 24 | 1, 16, 0, 1, 64]),
        ]
        .concat();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        bytes.extend(words(&[
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ]));
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn finds_a_member_in_an_anonymous_one() -> Result<(), Error> {
        assert_eq!(Btf::parse(&sample())?.offset("outer", "inner")?, 12);
        Ok(())
    }

    #[test]
    fn names_what_is_missing() -> Result<(), Error> {
        let Err(error) = Btf::parse(&sample())?.offset("outer", "else") else {
            panic!("found a member that is not there");
        };
        assert!(error.to_string().contains("outer.else"));
        Ok(())
    }

    #[test]
    fn every_cut_is_an_error_and_no_panic() {
        let whole = sample();
        for end in 0..whole.len() {
            assert!(Btf::parse(&whole[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn reads_the_running_kernel() -> Result<(), Error> {
        if !Path::new(VMLINUX).exists() {
            println!("skipped: {VMLINUX} is not there");
            return Ok(());
        }
        let offsets = Btf::running()?.conntrack()?;
        // Pointers: aligned, and within the structures' plausible sizes.
        assert_eq!(offsets.nfct % 8, 0);
        assert!(offsets.nfct > 0 && offsets.nfct < 512, "{offsets:?}");
        assert!(offsets.status > offsets.tuplehash, "{offsets:?}");
        let sockets = Btf::running()?.sockets()?;
        assert!(sockets.family > 0 && sockets.segments > 0, "{sockets:?}");
        Ok(())
    }
}
