//! Decides how a matrix product is cut into register tiles and shared by the team.
//!
//! `y[r][n] = Σ_k x[r][k] · w[n][k]`. For quantised weights, in ascending order of blocks `b` of 32 inputs
//! (16 where the format scales 16 at a time):
//! `y ← fma(d_w · d_x, Σ (code - zero) · q, y)` with an exact integer sum, then for affine formats
//! `y ← fma(min, d_x · Σ q, y)`. For F32 and F16 weights `y ← fma(x[k], w[k], y)` for ascending `k`. For BF16 weights activations are
//! rounded to bf16, and products are added in the order that the instruction set has for them (`Bf16Order`).
//! A tile never changes that order, so neither rows nor threads nor registers change a bit of the result.
#![expect(unsafe_code, reason = "threads write disjoint columns of one output")]

mod bf16;
mod few_rows;
mod float;
mod gated;
mod many_rows;
mod quant;

use std::{marker::PhantomData, ops::Range};

use crate::{
    DType, Input, Isa, PackedMatrix, Team,
    matrix::Panel,
    simd::{Bf16Order, MATRIX_ROWS, Many, Simd, load_part, store_part, tile_rows},
};
use bf16::Bf16Products;
use few_rows::FewRows;
use float::FloatRows;
pub use gated::{Act, matmul_gated};
use many_rows::ManyRows;

/// Weight bytes times row tiles that a claim covers while there is much to do, and at the end.
const CLAIM_BYTES: [usize; 2] = [64 << 10, 12 << 10];

/// What becomes of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// It replaces what was there.
    Set,
    /// It is added to what was there.
    Add,
    /// What was there is what its sum goes on from: the product over some inputs, continued over the ones behind them, is the
    /// product over all of them, to the bit. They are cut at a multiple of [`DType::chain_step`].
    Continue,
}

/// Where results go.
pub struct Results<'a> {
    /// Row after row.
    pub y: &'a mut [f32],
    /// From the first result of a row to that of the next.
    pub stride: usize,
    /// What becomes of what was there.
    pub store: Store,
}

/// `y = x · wᵀ`, or `y += x · wᵀ`, for every row of `x`: `y[r · stride + n]` is written for `n < w.n()`.
///
/// # Panics
/// When `x` is not as wide as `w`, lacks a form that `w` reads, or `y` is too short.
pub fn matmul(
    isa: Isa,
    team: &Team,
    x: &Input,
    w: &PackedMatrix,
    y: &mut [f32],
    stride: usize,
    store: Store,
) {
    matmul_outputs(isa, team, x, w, 0..w.n(), Results { y, stride, store });
}

/// As [`matmul`] for some outputs alone: `y[r · stride + n - outputs.start]` is written for `n` in `outputs`.
///
/// # Panics
/// As [`matmul`], and when `outputs` do not begin and end at a multiple of [`PANEL`](crate::PANEL) outputs of a part, or at its end.
pub fn matmul_outputs(
    isa: Isa,
    team: &Team,
    x: &Input,
    w: &PackedMatrix,
    outputs: Range<usize>,
    results: Results<'_>,
) {
    let (rows, Results { y, stride, store }) = (x.rows(), results);
    if rows == 0 || outputs.is_empty() {
        return;
    }
    let n = outputs.len();
    assert!(stride >= n && y.len() >= (rows - 1) * stride + n, "room for the result");
    let panels = w.panels_of(&outputs).expect("outputs are whole panels");
    let out = Output { start: y.as_mut_ptr(), stride, first: [0, outputs.start], store, rows: PhantomData };
    let bytes = w.bytes() / w.panels() * panels.len();
    for_each_piece(isa, team, x, w, panels, bytes, &|Piece { rows, panels, many }| {
        // SAFETY: no two pieces share both rows and panels.
        multiply(isa, many, unsafe { Claim::new(x, w, rows, panels, out) });
    });
}

/// Rows and panels that one thread computes at a time.
struct Piece {
    rows: Range<usize>,
    panels: Range<usize>,
    /// Whether [`Many`] says that the rows are computed together.
    many: bool,
}

/// Runs `f` over pieces that together are all rows by `panels`, with which `bytes` of weights are read.
fn for_each_piece(
    isa: Isa,
    team: &Team,
    x: &Input,
    w: &PackedMatrix,
    panels: Range<usize>,
    bytes: usize,
    f: &(dyn Fn(Piece) + Sync),
) {
    assert_eq!(x.k(), w.k(), "inputs of the matrix");
    assert!(x.serves(isa, w.input()), "activations were filled for this matrix and instruction set");
    let (rows, most) = (x.rows(), x.chunk_rows());
    let together = rows_together(isa.many(), x, w);
    let unit =
        if isa.bf16() == Bf16Order::Blocks && w.dtypes().all(|dtype| dtype == DType::BF16) { 2 } else { 1 };
    let units = panels.len().div_ceil(unit);
    for (rows, many) in [(0..together, true), (together..rows, false)] {
        let cost = (bytes / units.max(1)).max(1) * rows.len().min(most).div_ceil(4).max(1);
        let [largest, smallest] = CLAIM_BYTES.map(|bytes| bytes.div_ceil(cost));
        team.for_each_shrinking(units * rows.len().div_ceil(most), smallest..=largest, &|mut items| {
            while !items.is_empty() {
                let (chunk, from) = (items.start / units, items.start % units);
                let end = items.end.min((chunk + 1) * units);
                let first = rows.start + chunk * most;
                let to = panels.end.min(panels.start + (from + end - items.start) * unit);
                let panels = panels.start + from * unit..to;
                f(Piece { rows: first..rows.end.min(first + most), panels, many });
                items.start = end;
            }
        });
    }
}

/// How many rows, the first, are computed together.
fn rows_together(many: Many, x: &Input, w: &PackedMatrix) -> usize {
    let rows = x.rows();
    // All rows of bf16 are computed together in any case, but rows must not be divided for nothing else.
    let known = w.input().quantized() && w.dtypes().all(|dtype| many.knows(dtype));
    match many {
        Many::Unpack if known && rows >= MATRIX_ROWS => rows,
        Many::Matrix if known && x.tile_rows() == MATRIX_ROWS => rows / MATRIX_ROWS * MATRIX_ROWS,
        Many::Same | Many::Unpack | Many::Matrix => 0,
    }
}

/// Computes a claim, each type of panels by a kernel of its own.
fn multiply(isa: Isa, many: bool, claim: Claim<'_>) {
    let mut panels = claim.panels.clone();
    while !panels.is_empty() {
        let (dtype, same) = claim.w.panels_of_type(panels.start);
        let end = panels.end.min(panels.start + same);
        let claim = Claim { rows: claim.rows.clone(), panels: panels.start..end, ..claim };
        if many {
            many_rows(isa, dtype, claim)
        } else {
            few_rows(isa, dtype, claim)
        }
        panels.start = end;
    }
}

/// Calls `$kernel::<T>` for the quantised type `$dtype`, or evaluates `$float`.
macro_rules! by_type {
    ($isa:ident, $dtype:ident, $claim:ident, $kernel:ident, $float:expr) => {
        match $dtype {
            DType::F32 | DType::F16 => $float,
            DType::BF16 => $isa.run(Bf16Products($claim)),
            DType::Q4_0 => $isa.run($kernel::<{ DType::Q4_0 as usize }>($claim)),
            DType::Q4_1 => $isa.run($kernel::<{ DType::Q4_1 as usize }>($claim)),
            DType::Q5_0 => $isa.run($kernel::<{ DType::Q5_0 as usize }>($claim)),
            DType::Q5_1 => $isa.run($kernel::<{ DType::Q5_1 as usize }>($claim)),
            DType::Q8_0 => $isa.run($kernel::<{ DType::Q8_0 as usize }>($claim)),
            DType::Q2K => $isa.run($kernel::<{ DType::Q2K as usize }>($claim)),
            DType::Q3K => $isa.run($kernel::<{ DType::Q3K as usize }>($claim)),
            DType::Q4K => $isa.run($kernel::<{ DType::Q4K as usize }>($claim)),
            DType::Q5K => $isa.run($kernel::<{ DType::Q5K as usize }>($claim)),
            DType::Q6K => $isa.run($kernel::<{ DType::Q6K as usize }>($claim)),
        }
    };
}

fn few_rows(isa: Isa, dtype: DType, claim: Claim<'_>) {
    by_type!(isa, dtype, claim, FewRows, isa.run(FloatRows(dtype, claim)));
}

fn many_rows(isa: Isa, dtype: DType, claim: Claim<'_>) {
    by_type!(isa, dtype, claim, ManyRows, unreachable!("`Many` knows no floats"));
}

/// What is computed by one call of a kernel.
struct Claim<'a> {
    x: &'a Input,
    w: &'a PackedMatrix,
    rows: Range<usize>,
    panels: Range<usize>,
    out: Output<'a>,
}

impl<'a> Claim<'a> {
    /// # Safety
    /// `out` has these rows and the panels' outputs, and no other thread's claim has any of them.
    unsafe fn new(
        x: &'a Input,
        w: &'a PackedMatrix,
        rows: Range<usize>,
        panels: Range<usize>,
        out: Output<'a>,
    ) -> Claim<'a> {
        Claim { x, w, rows, panels, out }
    }

    #[inline(always)]
    fn products(self) -> impl Iterator<Item = PanelProduct<'a>> {
        let Claim { x, w, rows, panels, out } = self;
        panels.map(move |panel| {
            let (panel, rows) = (w.panel(panel), rows.clone());
            PanelProduct { x, rows, panel, out }
        })
    }
}

/// Where results go.
#[derive(Clone, Copy)]
struct Output<'a> {
    start: *mut f32,
    stride: usize,
    /// Row and output that are stored at `start`.
    first: [usize; 2],
    store: Store,
    rows: PhantomData<&'a mut [f32]>,
}

// SAFETY: threads write only the rows and outputs of their claims (the contract of `Claim::new`).
unsafe impl Sync for Output<'_> {}

impl Output<'_> {
    /// # Safety
    /// The row and `len` outputs from `first` on are those of a claim of this thread.
    #[inline(always)]
    unsafe fn row(&mut self, row: usize, first: usize, len: usize) -> &mut [f32] {
        let at = (row - self.first[0]) * self.stride + first - self.first[1];
        // SAFETY: the elements exist and nobody else touches them.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

/// A panel, and the rows with which it is multiplied.
struct PanelProduct<'a> {
    x: &'a Input,
    rows: Range<usize>,
    panel: Panel<'a>,
    out: Output<'a>,
}

impl PanelProduct<'_> {
    /// One register tile of at most `most` rows after the other.
    #[inline(always)]
    fn tiles<S: Simd>(&mut self, s: S, most: usize, mut each: impl TileFn<S>) {
        let mut row = 0;
        while row < self.rows.len() {
            let rows = tile_rows(self.rows.len() - row, most);
            match rows {
                8 if S::ROWS >= 8 => each.call::<8>(s, self, row),
                6 if S::ROWS == 6 => each.call::<6>(s, self, row),
                4 => each.call::<4>(s, self, row),
                2 => each.call::<2>(s, self, row),
                1 => each.call::<1>(s, self, row),
                rows => unreachable!("there is no tile of {rows} rows"),
            }
            row += rows;
        }
    }

    /// What the sums of the tile that begins with row `row` begin with.
    #[inline(always)]
    fn begin<S: Simd, const R: usize>(&mut self, s: S, row: usize) -> [S::F; R] {
        let mut y = [s.splat(0.0); R];
        if self.out.store == Store::Continue {
            for (r, y) in y.iter_mut().enumerate() {
                // SAFETY: the claim covers these rows and the panel's outputs.
                let from =
                    unsafe { self.out.row(self.rows.start + row + r, self.panel.first, self.panel.outputs) };
                *y = load_part(s, from, 0.0);
            }
        }
        y
    }

    /// Stores the result of the tile that begins with row `row`.
    #[inline(always)]
    fn finish<S: Simd, const R: usize>(&mut self, s: S, row: usize, y: [S::F; R]) {
        let store = self.out.store;
        for (r, y) in y.into_iter().enumerate() {
            // SAFETY: the claim covers these rows and the panel's outputs.
            let to = unsafe { self.out.row(self.rows.start + row + r, self.panel.first, self.panel.outputs) };
            let y = match store {
                Store::Set | Store::Continue => y,
                Store::Add => s.add(load_part(s, to, 0.0), y),
            };
            store_part(s, to, y);
        }
    }
}

/// What is done with a register tile of `R` rows; a closure cannot be generic over `R`.
trait TileFn<S: Simd> {
    fn call<const R: usize>(&mut self, s: S, product: &mut PanelProduct<'_>, row: usize);
}

#[cfg(test)]
pub(crate) mod tests;
