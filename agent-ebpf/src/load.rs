//! Headers out of a packet's head in whole words. They lie at odd places in a frame, and the
//! compiler, which the target promises nothing of that kind, reads such bytes one by one; the
//! kernel's own promise (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`, x86-64 and arm64) holds for its
//! programs as well.

use core::arch::asm;

/// Longest thing that is read at once: a key of the flow table.
const WORDS: usize = 11;

/// Reads a header of bytes.
///
/// # Safety
///
/// A whole `T` at `at` lies in the packet's head, which was compared with its end; and every
/// pattern of bits is a `T`.
#[inline(always)]
pub unsafe fn load<T: Copy>(at: usize) -> T {
    const { assert!(size_of::<T>() <= WORDS * 4 && align_of::<T>() <= 4) };
    let mut words = [0u32; WORDS];
    let whole = size_of::<T>() / 4;
    // SAFETY: the caller's promise; which words are read is known when this is compiled.
    unsafe {
        macro_rules! words {
            ($($index:literal)*) => {
                $(if $index < whole {
                    words[$index] = word::<{ $index * 4 }>(at);
                })*
            };
        }
        words!(0 1 2 3 4 5 6 7 8 9 10);
        if size_of::<T>() % 4 >= 2 {
            words[whole] = half(at + whole * 4);
        }
        if size_of::<T>() % 2 == 1 {
            let last = size_of::<T>() - 1;
            let byte = u32::from(*((at + last) as *const u8));
            words[whole] |= byte.to_le() << (8 * (last % 4));
        }
        core::mem::transmute_copy(&words)
    }
}

/// # Safety
///
/// As for [`load`].
#[inline(always)]
unsafe fn word<const OFFSET: usize>(at: usize) -> u32 {
    let word: u64;
    // SAFETY: the caller's promise; nothing is written.
    unsafe {
        asm!(
            "{word} = *(u32 *)({at} + {offset})",
            word = out(reg) word,
            at = in(reg) at,
            offset = const OFFSET,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    word as u32
}

/// # Safety
///
/// As for [`load`].
#[inline(always)]
unsafe fn half(at: usize) -> u32 {
    let half: u64;
    // SAFETY: as in `word`.
    unsafe {
        asm!(
            "{half} = *(u16 *)({at} + 0)",
            half = out(reg) half,
            at = in(reg) at,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    half as u32
}
