//! Small tc programs of somebody else's, assembled here: each ends the way of UDP datagrams to one
//! port in its own manner, and lets everything else go on.

use std::mem::size_of_val;

use anyhow::{Context, Result};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use nodescope_tests::lab::Netns;
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};

/// What a program does with its datagrams.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// `TCX_DROP`.
    Drop,
    /// `TCX_PASS`: on, past all programs that would come next.
    Pass,
    /// Out of the interface with this index.
    Redirect(u32),
}

/// A program and its link; gone when this is dropped.
pub struct Foreign {
    _loaded: aya::Ebpf,
}

/// Loads a program of this name and hangs it on the ingress of `interface`, before or behind all
/// that are there.
pub fn attach(
    netns: &Netns,
    interface: &str,
    name: &str,
    first: bool,
    port: u16,
    verdict: Verdict,
) -> Result<Foreign> {
    let mut loaded = aya::EbpfLoader::new()
        .btf(None)
        .load(&object(name, &code(port, verdict))?)?;
    let program: &mut SchedClassifier = loaded
        .program_mut(name)
        .context("the program is not in its object")?
        .try_into()?;
    program.load()?;
    let order = if first {
        LinkOrder::first()
    } else {
        LinkOrder::last()
    };
    netns.enter(|| {
        let options = TcAttachOptions::TcxOrder(order);
        program.attach_with_options(interface, TcAttachType::Ingress, options)
    })??;
    Ok(Foreign { _loaded: loaded })
}

/// One instruction (RFC 9669): code, destination and source register, offset, number.
fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> [u8; 8] {
    let [a, b] = offset.to_le_bytes();
    let [c, d, e, f] = number.to_le_bytes();
    [code, to | from << 4, a, b, c, d, e, f]
}

fn code(port: u16, verdict: Verdict) -> Vec<u8> {
    const MOVE: u8 = 0xb7;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    /// `bpf_redirect` (uapi linux/bpf.h).
    const REDIRECT: i32 = 23;
    let exit = instruction(EXIT, 0, 0, 0, 0);
    let ending = match verdict {
        Verdict::Drop => vec![instruction(MOVE, 0, 0, 0, 2), exit],
        Verdict::Pass => vec![instruction(MOVE, 0, 0, 0, 0), exit],
        Verdict::Redirect(to) => vec![
            instruction(MOVE, 1, 0, 0, to as i32),
            instruction(MOVE, 2, 0, 0, 0),
            instruction(CALL, 0, 0, 0, REDIRECT),
            exit,
        ],
    };
    let over = ending.len() as i16;
    let port = i32::from(port.to_be());
    // `data` and `data_end` of struct __sk_buff; the destination port behind 14 bytes of Ethernet
    // and 20 of IPv4.
    let mut all = vec![
        instruction(0x61, 2, 1, 76, 0),
        instruction(0x61, 3, 1, 80, 0),
        instruction(0xbf, 4, 2, 0, 0),
        instruction(0x07, 4, 0, 0, 38),
        instruction(0x2d, 4, 3, 2 + over, 0),
        instruction(0x69, 4, 2, 36, 0),
        instruction(0x55, 4, 0, over, port),
    ];
    all.extend(ending);
    // TCX_NEXT
    all.extend([instruction(MOVE, 0, 0, 0, -1), exit]);
    all.concat()
}

/// The object file that a compiler would have made.
fn object(name: &str, code: &[u8]) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let section = object.add_section(Vec::new(), b"classifier".to_vec(), SectionKind::Text);
    object.append_section_data(section, code, 8);
    object.add_symbol(Symbol {
        name: name.as_bytes().to_vec(),
        value: 0,
        size: size_of_val(code) as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    Ok(object.write()?)
}
