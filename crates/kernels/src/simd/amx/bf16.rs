//! Decides how panels of bf16 are multiplied by the matrix unit: sums stay in the tiles over all inputs, at most two tiles of rows
//! by two panels at a time, so that each tile of numbers is loaded once for two products.
//!
//! `TDPBF16PS` (Intel's architecture instruction set extensions, chapter on AMX) reads pairs of inputs side by side, which is how a
//! panel has them. How long it takes grows with the rows of the tile, so tiles have no more rows than there are.

use std::arch::asm;

use super::{Shapes, Tiles};
use crate::simd::{BF16_BLOCK, Begin, Bf16Line, Bf16Rows, Bf16Sums, MATRIX_ROWS};

/// For one tile of so many rows.
static ONE: [Shapes; MATRIX_ROWS + 1] = shapes(false);

/// For a full tile of rows and one of so many.
static TWO: [Shapes; MATRIX_ROWS + 1] = shapes(true);

/// Tiles 0 and 1 are sums of the first rows, 2 and 3 of the second; 4 and 5 are activations of both; 6 and 7 weights.
const fn shapes(two: bool) -> [Shapes; MATRIX_ROWS + 1] {
    let mut all =
        [const { Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] } };
            MATRIX_ROWS + 1];
    let mut rows = 1;
    while rows <= MATRIX_ROWS {
        let (r, first) = (rows as u8, if two { MATRIX_ROWS as u8 } else { rows as u8 });
        all[rows].row_bytes = [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0];
        all[rows].rows = [first, first, r, r, first, r, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0];
        rows += 1;
    }
    all
}

impl Tiles {
    /// See [`Simd::bf16_matrix`](crate::simd::Simd::bf16_matrix).
    #[inline(always)]
    pub(in crate::simd) fn bf16_products<const X: usize, const W: usize>(
        &mut self,
        x: [Bf16Rows<'_>; X],
        w: [&[[u8; BF16_BLOCK]]; W],
        begin: Begin,
        sums: &mut Bf16Sums,
    ) {
        const { assert!(0 < X && X <= 2 && 0 < W && W <= 2) };
        let (blocks, last) = (w[0].len(), x[X - 1].rows);
        assert!(
            (1..=MATRIX_ROWS).contains(&last) && (X == 1 || x[0].rows == MATRIX_ROWS),
            "a full tile of rows before another one"
        );
        assert!(
            x.iter().all(|x| x.lines.len() == blocks * x.rows) && w.iter().all(|w| w.len() == blocks),
            "as many blocks of activations as of weights"
        );
        self.shape(if X == 2 { &TWO[last] } else { &ONE[last] });
        // SAFETY: tiles are in use and have as many rows as `x`; the lengths were just checked.
        unsafe { products(x, w, begin, sums) }
    }
}

/// # Safety
/// Tiles are shaped for the rows of `x`, and there are as many blocks in all of `x` and `w`.
#[inline(always)]
unsafe fn products<const X: usize, const W: usize>(
    x: [Bf16Rows<'_>; X],
    w: [&[[u8; BF16_BLOCK]]; W],
    begin: Begin,
    sums: &mut Bf16Sums,
) {
    const LINE: usize = size_of::<Bf16Line>();
    /// All blocks: what is loaded where sums go on, what is done with a block, then what is stored.
    macro_rules! blocks {
        ([$($load:literal),*] [$($block:literal),*] [$($store:literal),*]) => {
            // SAFETY: rows of both are a line each, one after the other; the loop goes over as many blocks as there are, and
            // sums have room for sixteen rows of a line. Those that are loaded were written: the caller says `There` then.
            unsafe {
                asm!(
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "test {there}, {there}",
                    "jz 4f",
                    $($load,)*
                    "4:",
                    "test {blocks}, {blocks}",
                    "jz 3f",
                    "2:",
                    $($block,)*
                    "add {x0}, {x0_step}",
                    "add {x1}, {x1_step}",
                    "add {w0}, {block}",
                    "add {w1}, {block}",
                    "dec {blocks}",
                    "jnz 2b",
                    "3:",
                    $($store,)*
                    x0 = inout(reg) x[0].lines.as_ptr() => _,
                    x1 = inout(reg) x[X - 1].lines.as_ptr() => _,
                    w0 = inout(reg) w[0].as_ptr() => _,
                    w1 = inout(reg) w[W - 1].as_ptr() => _,
                    blocks = inout(reg) w[0].len() => _,
                    x0_step = in(reg) x[0].rows * LINE,
                    x1_step = in(reg) x[X - 1].rows * LINE,
                    to = in(reg) sums,
                    there = in(reg) usize::from(begin == Begin::There),
                    line = in(reg) LINE,
                    block = const BF16_BLOCK,
                    tile = const MATRIX_ROWS * LINE,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                )
            }
        };
    }
    match (X, W) {
        (1, 1) => blocks!(
            ["tileloadd tmm0, [{to} + {line}]"]
            ["tileloadd tmm4, [{x0} + {line}]", "tileloadd tmm6, [{w0} + {line}]", "tdpbf16ps tmm0, tmm4, tmm6"]
            ["tilestored [{to} + {line}], tmm0", "/* {tile} */"]
        ),
        (1, _) => blocks!(
            ["tileloadd tmm0, [{to} + {line}]", "tileloadd tmm1, [{to} + {line} + {tile}]"]
            [
                "tileloadd tmm4, [{x0} + {line}]",
                "tileloadd tmm6, [{w0} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7"
            ]
            ["tilestored [{to} + {line}], tmm0", "tilestored [{to} + {line} + {tile}], tmm1"]
        ),
        (_, 1) => blocks!(
            ["tileloadd tmm0, [{to} + {line}]", "tileloadd tmm2, [{to} + {line} + 2 * {tile}]"]
            [
                "tileloadd tmm4, [{x0} + {line}]",
                "tileloadd tmm6, [{w0} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{x1} + {line}]",
                "tdpbf16ps tmm2, tmm5, tmm6"
            ]
            ["tilestored [{to} + {line}], tmm0", "tilestored [{to} + {line} + 2 * {tile}], tmm2"]
        ),
        _ => blocks!(
            [
                "tileloadd tmm0, [{to} + {line}]",
                "tileloadd tmm1, [{to} + {line} + {tile}]",
                "tileloadd tmm2, [{to} + {line} + 2 * {tile}]",
                "tileloadd tmm3, [{to} + {line} + 3 * {tile}]"
            ]
            [
                "tileloadd tmm4, [{x0} + {line}]",
                "tileloadd tmm6, [{w0} + {line}]",
                "tileloadd tmm7, [{w1} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{x1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7"
            ]
            [
                "tilestored [{to} + {line}], tmm0",
                "tilestored [{to} + {line} + {tile}], tmm1",
                "tilestored [{to} + {line} + 2 * {tile}], tmm2",
                "tilestored [{to} + {line} + 3 * {tile}], tmm3"
            ]
        ),
    }
}
