//! A frame's bytes, three ways: those that lie in the packet's head and no others, which is the
//! fastest; any, through the helper, which asks least of the verifier; and both in turn.

use core::mem::MaybeUninit;

use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, programs::TcContext};
use nodescope_ebpf::packet::Frame;

use crate::CAREFUL;

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
        let head = Head {
            data: self.data,
            end: self.end,
        };
        if CAREFUL {
            return Copied(self.ctx).read(at);
        }
        match head.read(at) {
            Some(value) => Some(value),
            None => Copied(self.ctx).read(at),
        }
    }
}

/// The bytes in the packet's head: what lies elsewhere is not there.
pub struct Head {
    data: usize,
    end: usize,
}

impl Head {
    /// As it is now.
    #[inline(always)]
    pub fn of(ctx: &TcContext) -> Self {
        Self {
            data: ctx.data(),
            end: ctx.data_end(),
        }
    }
}

impl Frame for Head {
    #[inline(always)]
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        let start = self.data + at;
        if start + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the bounds check above is the one that the verifier asks for.
        Some(unsafe { (start as *const T).read_unaligned() })
    }
}

/// All bytes, copied out by the helper.
pub struct Copied<'a>(pub &'a TcContext);

impl Frame for Copied<'_> {
    #[inline(always)]
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes exactly size_of::<T>() bytes or fails, and T is a plain
        // header of bytes.
        unsafe {
            let failed = bpf_skb_load_bytes(
                self.0.skb.skb.cast(),
                at as u32,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            );
            (failed == 0).then(|| value.assume_init())
        }
    }

    #[inline(always)]
    fn read_to<T: Copy>(&self, at: usize, to: &mut T) -> Option<()> {
        // SAFETY: as in `read`; on failure the helper writes zeroes, which are a value of every T
        // that is read here.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.0.skb.skb.cast(),
                at as u32,
                core::ptr::from_mut(to).cast(),
                size_of::<T>() as u32,
            )
        };
        (failed == 0).then_some(())
    }
}
