//! Decides how blocks of bytes are multiplied by the matrix unit of AMX: sixteen rows of activations by sixteen outputs and 32
//! inputs at a time, summed exactly in 32 bits; and how the unit is made ready.
//!
//! The unit wants memory in the order in which a panel has it: four inputs of one output side by side (Intel's architecture
//! instruction set extensions, chapter on AMX, `TDPBSSD`). Sums leave it through memory. Four blocks are multiplied before the
//! first sum is read: reading one while the next is being multiplied takes twice as long here (13 against 21 ns a block of
//! sixteen rows on a Xeon with 3.9 GHz), because the loads wait for the stores.
#![expect(
    unsafe_code,
    reason = "the instructions have no stable intrinsics; a proof says that the CPU has them"
)]

mod bf16;

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::avx512::{Avx512, MATRIX};
use super::{ByteBlock, MATRIX_BLOCKS, MATRIX_ROWS, MatrixSums, XBlock};

/// Asks the processor whether it has the unit and the system whether we may use it, once.
pub(crate) fn detect() -> Option<Avx512<MATRIX>> {
    static USABLE: OnceLock<bool> = OnceLock::new();
    let avx512 = Avx512::detect()?;
    let usable = *USABLE.get_or_init(|| {
        // Leaf 7, EDX: bit 22 is AMX-BF16, bit 24 AMX-TILE, bit 25 AMX-INT8.
        let tiles = __cpuid_count(7, 0).edx >> 22 & 0b1101 == 0b1101;
        tiles && permitted()
    });
    // SAFETY: just asked.
    usable.then(|| unsafe { avx512.with_matrix_unit() })
}

/// Asks Linux for the state of the tiles (`arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`, Documentation/arch/x86/xstate.rst),
/// for all threads of the process.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// What `LDTILECFG` reads: palette 1, then bytes of a row and rows of each of eight tiles.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Tiles 0 to 3 are sums, 4 and 5 sixteen rows of activations, 6 and 7 weights. Constant, because the unit waits for stores to
/// what it reads.
static SHAPES: Shapes = Shapes {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 32, 32, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Tiles that are in use on this thread as long as this lives. A thread that does not use them is switched to and from faster.
pub(crate) struct Tiles {
    /// What they are shaped for now.
    shapes: Option<&'static Shapes>,
    /// They belong to a thread.
    thread: PhantomData<*const ()>,
}

impl Tiles {
    /// # Safety
    /// The CPU has AMX, and the system lets this process use it.
    #[inline(always)]
    pub(super) unsafe fn new() -> Tiles {
        Tiles { shapes: None, thread: PhantomData }
    }

    /// Shapes them, unless they are already; what they hold is lost.
    #[inline(always)]
    fn shape(&mut self, shapes: &'static Shapes) {
        if self.shapes.is_some_and(|now| std::ptr::eq(now, shapes)) {
            return;
        }
        // SAFETY: 64 bytes that describe tiles within palette 1; whoever made this had the instruction.
        unsafe { asm!("ldtilecfg [{}]", in(reg) shapes, options(nostack, preserves_flags, readonly)) };
        self.shapes = Some(shapes);
    }

    /// See [`Simd::matrix`](super::Simd::matrix).
    #[inline(always)]
    pub(super) fn products(&mut self, x: &[XBlock<MATRIX_ROWS>], w: &[ByteBlock], sums: &mut MatrixSums) {
        assert!(
            x.len() == w.len() && x.len() <= MATRIX_BLOCKS,
            "as many blocks of activations as of weights"
        );
        self.shape(&SHAPES);
        // SAFETY: the lengths were just checked, and tiles are in use.
        unsafe { products(x, w, sums) }
    }
}

impl Drop for Tiles {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: whoever made this had the instruction.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}

/// # Safety
/// There are as many blocks of activations as of weights, at most [`MATRIX_BLOCKS`], and tiles are in use.
#[inline(always)]
unsafe fn products(x: &[XBlock<MATRIX_ROWS>], w: &[ByteBlock], sums: &mut MatrixSums) {
    macro_rules! multiply {
        ($sum:tt, $x:tt, $w:tt, $block:literal) => {{
            let (x, w) = (&x[$block], &w[$block]);
            // SAFETY: the block exists; a row of activations is 32 bytes from its `q` on, a row of weights 64 bytes.
            unsafe {
                asm!(
                    concat!("tilezero ", $sum),
                    concat!("tileloadd ", $x, ", [{x} + {x_stride}]"),
                    concat!("tileloadd ", $w, ", [{w} + {w_stride}]"),
                    concat!("tdpbssd ", $sum, ", ", $x, ", ", $w),
                    x = in(reg) x.q.as_ptr(),
                    x_stride = in(reg) 32usize,
                    w = in(reg) w.0.as_ptr(),
                    w_stride = in(reg) 64usize,
                    out($sum) _, out($x) _, out($w) _,
                    options(nostack, preserves_flags, readonly),
                )
            }
        }};
    }
    macro_rules! store {
        ($sum:tt, $block:literal) => {
            // SAFETY: the sums are sixteen rows of 64 bytes.
            unsafe {
                asm!(
                    concat!("tilestored [{to} + {stride}], ", $sum),
                    to = in(reg) sums.0[$block].as_mut_ptr(),
                    stride = in(reg) 64usize,
                    options(nostack, preserves_flags),
                )
            }
        };
    }
    if x.len() == MATRIX_BLOCKS {
        multiply!("tmm0", "tmm4", "tmm6", 0);
        multiply!("tmm1", "tmm5", "tmm7", 1);
        multiply!("tmm2", "tmm4", "tmm6", 2);
        multiply!("tmm3", "tmm5", "tmm7", 3);
        store!("tmm0", 0);
        store!("tmm1", 1);
        store!("tmm2", 2);
        store!("tmm3", 3);
        return;
    }
    if !x.is_empty() {
        multiply!("tmm0", "tmm4", "tmm6", 0);
        store!("tmm0", 0);
    }
    if x.len() > 1 {
        multiply!("tmm1", "tmm5", "tmm7", 1);
        store!("tmm1", 1);
    }
    if x.len() > 2 {
        multiply!("tmm2", "tmm4", "tmm6", 2);
        store!("tmm2", 2);
    }
}
