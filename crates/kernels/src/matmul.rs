//! Decides how a matrix product is cut into register tiles and shared by the team.
//!
//! `y[r][n] = Σ_k x[r][k] · w[n][k]`. For quantised weights, in ascending order of blocks `b` of 32 inputs
//! (16 where the format scales 16 at a time):
//! `y ← fma(d_w · d_x, Σ (code - zero) · q, y)` with an exact integer sum, then for affine formats
//! `y ← fma(min, d_x · Σ q, y)`. For float weights `y ← fma(x[k], w[k], y)` for ascending `k`.
//! A tile never changes that order, so neither rows nor threads nor registers change a bit of the result.
#![expect(unsafe_code, reason = "threads write disjoint columns of one output")]

use std::{marker::PhantomData, ops::Range};

use crate::{
    DType, Input, Isa, PackedMatrix, Team,
    block::{Format, Scales},
    isa::Kernel,
    matrix::{Panel, QuantLayout},
    simd::{CodeRange, LANES, QuantWeights, Simd, WideBlock, XBlock, store_part},
};

/// Rows that one claim covers: their activations stay in the second-level cache over all panels.
const ROW_CHUNK: usize = 64;

/// Weight bytes times row tiles that one claim covers at least, so that claiming is cheap against it.
const CLAIM_BYTES: usize = 64 << 10;

/// `y = x · wᵀ` for every row of `x`: `y[r · stride + n]` is overwritten for `n < w.n()`.
///
/// # Panics
/// When `x` is not as wide as `w`, lacks a form that `w` reads, or `y` is too short.
pub fn matmul(isa: Isa, team: &Team, x: &Input, w: &PackedMatrix, y: &mut [f32], stride: usize) {
    matmul_rows(isa, team, x, 0..x.rows(), w, y, stride);
}

/// As [`matmul`], for some rows of `x` only: row `rows.start` goes to the front of `y`.
///
/// # Panics
/// As [`matmul`], and when `x` has no such rows.
pub fn matmul_rows(
    isa: Isa,
    team: &Team,
    x: &Input,
    rows: Range<usize>,
    w: &PackedMatrix,
    y: &mut [f32],
    stride: usize,
) {
    assert_eq!(x.k(), w.k(), "inputs of the matrix");
    assert!(rows.start <= rows.end && rows.end <= x.rows(), "rows of the activations");
    assert!(x.serves(isa, w.input()), "activations were filled for this matrix and instruction set");
    if rows.is_empty() || w.n() == 0 {
        return;
    }
    assert!(stride >= w.n() && y.len() >= (rows.len() - 1) * stride + w.n(), "room for the result");
    let out = Output { start: y.as_mut_ptr(), stride, rows: PhantomData };
    let panels = w.panels();
    let chunks = rows.len().div_ceil(ROW_CHUNK);
    let panel_cost = (w.bytes() / panels.max(1)).max(1) * rows.len().min(ROW_CHUNK).div_ceil(4);
    let grain = CLAIM_BYTES.div_ceil(panel_cost).min(panels.div_ceil(4 * team.threads())).max(1);
    team.for_each(panels * chunks, grain, &|items| {
        for item in items {
            let first = rows.start + item / panels * ROW_CHUNK;
            let chunk = first..rows.end.min(first + ROW_CHUNK);
            let panel = w.panel(item % panels);
            // SAFETY: every item is claimed once, and no two items share both rows and columns.
            let out = unsafe { out.at(chunk.start - rows.start, panel.first) };
            isa.run(PanelProduct { x, rows: chunk, panel, out });
        }
    });
}

/// Where results go. `at` hands out windows that overlap in memory but not in the elements written.
#[derive(Clone, Copy)]
struct Output<'a> {
    start: *mut f32,
    stride: usize,
    rows: PhantomData<&'a mut [f32]>,
}

// SAFETY: whoever holds a window writes only its own rows and columns (the contract of `at`).
unsafe impl Sync for Output<'_> {}

impl Output<'_> {
    /// # Safety
    /// The element is within the output, and of any two threads' windows no element is written by both.
    unsafe fn at(self, row: usize, column: usize) -> Self {
        // SAFETY: the element is within the output.
        Output { start: unsafe { self.start.add(row * self.stride + column) }, ..self }
    }

    /// # Safety
    /// Row `row` has `len` elements from the window's column on, and they are this window's.
    #[inline(always)]
    unsafe fn row(&mut self, row: usize, len: usize) -> &mut [f32] {
        // SAFETY: the elements exist and nobody else touches them.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), len) }
    }
}

struct PanelProduct<'a> {
    x: &'a Input,
    rows: Range<usize>,
    panel: Panel<'a>,
    out: Output<'a>,
}

impl Kernel for PanelProduct<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.panel.dtype {
            DType::F32 => self.tiles::<S, F32>(s),
            DType::F16 => self.tiles::<S, F16>(s),
            DType::BF16 => self.tiles::<S, Bf16>(s),
            DType::Q4_0 => self.tiles::<S, Quant<{ DType::Q4_0 as usize }>>(s),
            DType::Q4_1 => self.tiles::<S, Quant<{ DType::Q4_1 as usize }>>(s),
            DType::Q5_0 => self.tiles::<S, Quant<{ DType::Q5_0 as usize }>>(s),
            DType::Q5_1 => self.tiles::<S, Quant<{ DType::Q5_1 as usize }>>(s),
            DType::Q8_0 => self.tiles::<S, Quant<{ DType::Q8_0 as usize }>>(s),
            DType::Q2K => self.tiles::<S, Quant<{ DType::Q2K as usize }>>(s),
            DType::Q3K => self.tiles::<S, Quant<{ DType::Q3K as usize }>>(s),
            DType::Q4K => self.tiles::<S, Quant<{ DType::Q4K as usize }>>(s),
            DType::Q5K => self.tiles::<S, Quant<{ DType::Q5K as usize }>>(s),
            DType::Q6K => self.tiles::<S, Quant<{ DType::Q6K as usize }>>(s),
        }
    }
}

impl PanelProduct<'_> {
    #[inline(always)]
    fn tiles<S: Simd, T: Tile>(mut self, s: S) {
        let mut row = 0;
        if S::ROWS >= 8 {
            while row + 8 <= self.rows.len() {
                row += self.tile::<S, T, 8>(s, row);
            }
        } else if S::ROWS >= 6 {
            while row + 6 <= self.rows.len() {
                row += self.tile::<S, T, 6>(s, row);
            }
        }
        while row + 4 <= self.rows.len() {
            row += self.tile::<S, T, 4>(s, row);
        }
        if row + 2 <= self.rows.len() {
            row += self.tile::<S, T, 2>(s, row);
        }
        if row < self.rows.len() {
            self.tile::<S, T, 1>(s, row);
        }
    }

    #[inline(always)]
    fn tile<S: Simd, T: Tile, const R: usize>(&mut self, s: S, row: usize) -> usize {
        let y = T::compute::<S, R>(s, self.x, self.rows.start + row, self.panel.data);
        for (r, y) in y.into_iter().enumerate() {
            // SAFETY: the claim covers these rows and the panel's outputs.
            store_part(s, unsafe { self.out.row(row + r, self.panel.outputs) }, y);
        }
        R
    }
}

/// The product of `R` rows with one panel.
trait Tile {
    fn compute<S: Simd, const R: usize>(s: S, x: &Input, row: usize, panel: &[u8]) -> [S::F; R];
}

macro_rules! float_tile {
    ($name:ident, $element:ty, $load:ident) => {
        struct $name;

        impl Tile for $name {
            #[inline(always)]
            fn compute<S: Simd, const R: usize>(s: S, x: &Input, row: usize, panel: &[u8]) -> [S::F; R] {
                let x: [&[f32]; R] = std::array::from_fn(|r| x.float_row(row + r));
                let mut y = [s.splat(0.0); R];
                let weights = panel.as_chunks::<{ LANES * size_of::<$element>() }>().0;
                for (k, w) in weights.iter().enumerate() {
                    // SAFETY: any bits are a value of the element type; the array has exactly its bytes.
                    let w = s.$load(&unsafe { w.as_ptr().cast::<[$element; LANES]>().read_unaligned() });
                    for r in 0..R {
                        y[r] = s.fma(s.splat(x[r][k]), w, y[r]);
                    }
                }
                y
            }
        }
    };
}

float_tile!(F32, f32, load);
float_tile!(F16, u16, load_f16);
float_tile!(Bf16, u16, load_bf16);

/// The quantised type that is `DType::ALL[T]`.
struct Quant<const T: usize>;

impl<const T: usize> QuantWeights for Quant<T> {
    const FORMAT: Format = Format::of(DType::ALL[T]).expect("the type is quantised");
    const LAYOUT: QuantLayout = QuantLayout::new(Self::FORMAT);
}

impl<const T: usize> Quant<T> {
    /// Exact integer sums of one block of 32 inputs.
    #[inline(always)]
    fn products<S: Simd, const R: usize>(
        s: S,
        w: &[u8],
        x: [&XBlock; R],
        wide: [&WideBlock; R],
    ) -> [[S::I; R]; 2] {
        let Format { range, zero, affine: _, scales: _, halves } = Self::FORMAT;
        let zero = -i32::from(zero);
        let mut init = [[0; R]; 2];
        for r in 0..R {
            let [a, b] = x[r].sums.map(i32::from);
            (init[0][r], init[1][r]) = if halves { (zero * a, zero * b) } else { (zero * (a + b), 0) };
        }
        match range {
            CodeRange::Bits4 => {
                let w = w.first_chunk().expect("a block of codes");
                if halves { s.nibbles::<R, true>(w, x, init) } else { s.nibbles::<R, false>(w, x, init) }
            }
            CodeRange::Bits5 | CodeRange::Bits6 | CodeRange::Bits8 => {
                let w = w.first_chunk().expect("a block of codes");
                if halves {
                    s.bytes::<R, true>(w, range, x, wide, init)
                } else {
                    s.bytes::<R, false>(w, range, x, wide, init)
                }
            }
        }
    }

    /// Scale and minimum of one sub-block: `d` and `min` times their factors where the format has some.
    #[inline(always)]
    fn scales<S: Simd>(s: S, d: S::F, min: S::F, factors: &[u8], sub: usize) -> (S::F, S::F) {
        match Self::FORMAT.scales {
            Scales::Half => (d, min),
            Scales::Super => {
                let factor = |at: usize| {
                    let bytes: &[u8; LANES] = factors[at * LANES..].first_chunk().expect("sixteen factors");
                    // Factors of minima are below 64, so that they are the same number as signed bytes.
                    s.load_i8(&bytes.map(|byte| byte as i8))
                };
                let subs = if Self::FORMAT.halves { 2 } else { 1 };
                let scale = s.mul(d, factor(sub));
                (scale, if Self::FORMAT.affine { s.mul(min, factor(subs + sub)) } else { min })
            }
        }
    }
}

impl<const T: usize> Tile for Quant<T> {
    #[inline(always)]
    fn compute<S: Simd, const R: usize>(s: S, x: &Input, row: usize, panel: &[u8]) -> [S::F; R] {
        let (format, layout) = (Self::FORMAT, Self::LAYOUT);
        let wide = S::WIDE && format.range == CodeRange::Bits8;
        let rows: [&[XBlock]; R] = std::array::from_fn(|r| x.block_row(row + r));
        let wide_rows: [&[WideBlock]; R] =
            std::array::from_fn(|r| if wide { x.wide_row(row + r) } else { &[] });
        if let Some(y) = s.panel::<Self, R>(rows, wide_rows, panel) {
            return y;
        }
        let unread = WideBlock::default();
        let mut y = [s.splat(0.0); R];
        for (group, data) in panel.chunks_exact(layout.group()).enumerate() {
            if R <= 4 {
                prefetch(data);
            }
            let (codes, scales) = data.split_at(layout.codes * layout.blocks);
            let d = half_lanes(s, &scales[..2 * LANES]);
            let min = match (format.affine, format.scales) {
                (false, _) => d,
                (true, Scales::Half) => half_lanes(s, &scales[2 * LANES..]),
                // These formats subtract their minima.
                (true, Scales::Super) => s.sub(s.splat(0.0), half_lanes(s, &scales[2 * LANES..])),
            };
            for block in 0..layout.blocks {
                let at = group * layout.blocks + block;
                let xs: [&XBlock; R] = std::array::from_fn(|r| &rows[r][at]);
                let wide: [&WideBlock; R] =
                    std::array::from_fn(|r| if wide { &wide_rows[r][at] } else { &unread });
                let sums = Self::products::<S, R>(s, &codes[block * layout.codes..], xs, wide);
                let factors = &scales[layout.head + block * layout.factors..];
                for sub in 0..if format.halves { 2 } else { 1 } {
                    let (scale, min) = Self::scales(s, d, min, factors, sub);
                    for r in 0..R {
                        let dx = s.splat(xs[r].scale);
                        y[r] = s.fma(s.mul(scale, dx), s.to_float(sums[sub][r]), y[r]);
                        if format.affine {
                            let weighted = if format.halves {
                                xs[r].scale * f32::from(xs[r].sums[sub])
                            } else {
                                xs[r].weighted
                            };
                            y[r] = s.fma(min, s.splat(weighted), y[r]);
                        }
                    }
                }
            }
        }
        y
    }
}

/// How far ahead of its use a weight is asked for: memory answers after about as long as these bytes take to compute with.
const AHEAD: usize = 4 << 10;

/// Asks for the bytes that come [`AHEAD`] after `data`. Hardware prefetching stops at every page of 4 KiB, which a small
/// matrix crosses with each panel.
#[inline(always)]
pub(crate) fn prefetch(data: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..data.len()).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching any address is harmless; nothing is read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(data.as_ptr().wrapping_add(AHEAD + line).cast()) }
    }
}

/// Sixteen half-precision numbers.
#[inline(always)]
fn half_lanes<S: Simd>(s: S, bytes: &[u8]) -> S::F {
    let bytes: &[u8; 2 * LANES] = bytes.first_chunk().expect("sixteen halves");
    // SAFETY: any bits are integers; the array has exactly their bytes.
    s.load_f16(&unsafe { bytes.as_ptr().cast::<[u16; LANES]>().read_unaligned() })
}

#[cfg(test)]
pub(crate) mod tests;
