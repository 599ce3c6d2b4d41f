//! What the verifier asks for when the agent is without CAP_PERFMON: no arithmetic with pointers
//! but by one constant for each instruction.

/// Copies between maps; for an agent without CAP_PERFMON word by word, for the compiler's own copy
/// subtracts pointers.
///
/// # Safety
///
/// One can be read and the other written, and they do not overlap.
#[inline(always)]
pub unsafe fn copy<T: Copy>(to: *mut T, from: *const T) {
    const { assert!(size_of::<T>().is_multiple_of(4) && align_of::<T>() >= 4) };
    // SAFETY: the caller's promise.
    unsafe {
        if !cfg!(feature = "careful") {
            to.write(from.read());
            return;
        }
        for at in 0..size_of::<T>() / 4 {
            let word = from.cast::<u32>().add(at).read_volatile();
            to.cast::<u32>().add(at).write_volatile(word);
        }
    }
}

/// One of two pointers into the same value. The compiler would rather choose the offset and add
/// it once, which the verifier takes from an agent with CAP_PERFMON only: for one without, each
/// pointer is made on a way of its own, which ends in an instruction (without effect) that the
/// other's does not.
macro_rules! either {
    ($condition:expr, $one:expr, $other:expr) => {{
        let mut pointer;
        if $condition {
            pointer = $one;
            if cfg!(feature = "careful") {
                core::arch::asm!("{0} = {0}", inout(reg) pointer);
            }
        } else {
            pointer = $other;
            if cfg!(feature = "careful") {
                core::arch::asm!("{0} += 0", inout(reg) pointer);
            }
        }
        pointer
    }};
}
pub(crate) use either;
