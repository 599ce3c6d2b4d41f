//! A frame's bytes: straight from the packet's head, or through the helper when the header lies
//! in a fragment of the skb.

use core::mem::MaybeUninit;

use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, programs::TcContext};
use nodescope_ebpf::packet::Frame;

/// The bytes of an skb.
pub struct Bytes<'a> {
    ctx: &'a TcContext,
    /// The linear part.
    data: usize,
    end: usize,
}

impl<'a> Bytes<'a> {
    /// As they are now.
    #[inline(always)]
    pub fn of(ctx: &'a TcContext) -> Self {
        Self {
            ctx,
            data: ctx.data(),
            end: ctx.data_end(),
        }
    }
}

impl Frame for Bytes<'_> {
    #[inline(always)]
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        let start = self.data + at;
        if start + size_of::<T>() <= self.end {
            // SAFETY: the bounds check above is the one that the verifier asks for.
            return Some(unsafe { (start as *const T).read_unaligned() });
        }
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes exactly size_of::<T>() bytes or fails, and T is a plain
        // header of bytes.
        unsafe {
            let failed = bpf_skb_load_bytes(
                self.ctx.skb.skb.cast(),
                at as u32,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            );
            (failed == 0).then(|| value.assume_init())
        }
    }
}
