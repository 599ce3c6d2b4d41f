//! Names of kernel functions by address.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::Arc;

/// Where the kernel lists its functions: `address type name`, zeroes for addresses where
/// `kernel.kptr_restrict` hides them.
const KALLSYMS: &str = "/proc/kallsyms";

/// Functions that were asked for. The list has some 200,000 lines and is read once for each
/// address that was not asked for before: there are few, and keeping it all takes megabytes.
#[derive(Debug, Default)]
pub struct Symbols(HashMap<u64, Option<Arc<str>>>);

impl Symbols {
    /// The function that an address is in; `None` when the kernel does not show its addresses.
    pub fn function(&mut self, address: u64) -> Option<Arc<str>> {
        self.0
            .entry(address)
            .or_insert_with(|| find(Path::new(KALLSYMS), address))
            .clone()
    }
}

/// The nearest function at or before an address.
fn find(list: &Path, address: u64) -> Option<Arc<str>> {
    if address == 0 {
        return None;
    }
    let mut reader = BufReader::new(File::open(list).ok()?);
    let mut line = String::new();
    let mut best: Option<(u64, String)> = None;
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            break;
        }
        let mut words = line.split_ascii_whitespace();
        let start = words
            .next()
            .and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let (Some(start), Some(kind), Some(name)) = (start, words.next(), words.next()) else {
            continue;
        };
        let nearer = best.as_ref().is_none_or(|(known, _)| start > *known);
        if matches!(kind, "t" | "T" | "w" | "W") && start != 0 && start <= address && nearer {
            best = Some((start, name.to_owned()));
        }
    }
    best.map(|(_, name)| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_function_before_the_address() -> std::io::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let list = "ffff000000000100 T first\nffff000000000180 d data\nno line\n\
                    ffff000000000200 t second\t[module]\nffff000000000300 T third\n";
        std::fs::write(file.path(), list)?;
        let name = |address| find(file.path(), address);
        assert_eq!(name(0xffff_0000_0000_0190).as_deref(), Some("first"));
        assert_eq!(name(0xffff_0000_0000_02ff).as_deref(), Some("second"));
        assert_eq!(name(0xffff_0000_0000_0000), None);
        assert_eq!(name(0), None);
        Ok(())
    }

    #[test]
    fn hidden_addresses_have_no_names() -> std::io::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), "0000000000000000 T first\n")?;
        assert_eq!(find(file.path(), 0xffff_0000_0000_0100), None);
        Ok(())
    }
}
