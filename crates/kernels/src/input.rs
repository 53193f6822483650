//! Decides how activations are rounded to signed bytes or to bf16, and holds them in every form that a product reads.
//!
//! Thirty-two consecutive activations share a scale, by the rule of `round`, unless a matrix says otherwise (see [`Rounding`]).
#![expect(unsafe_code, reason = "views lines as bytes and bytes as blocks")]

mod bf16;
mod kind;
mod made;

use crate::{
    Isa, Team,
    isa::Kernel,
    round::{ByteScale, byte_scale},
    simd::{MATRIX_ROWS, Simd, VECTOR_ROWS, WideBlock, XBlock, tile_rows},
};
use bf16::Bf16Input;
pub use kind::{InputKind, Rounding};
pub use made::Made;
use made::largest_of;

/// Activations of some rows, in a buffer that is filled again and again.
///
/// Blocks lie in the order in which a product reads them: the rows of a register tile (see `tile_rows`) side by side, block
/// after block, tile after tile.
pub struct Input {
    rows: usize,
    k: usize,
    kind: InputKind,
    isa: Isa,
    float: Vec<f32>,
    bf16: Bf16Input,
    /// Bytes of `XBlock`s.
    blocks: Vec<Line>,
    wide: Vec<WideBlock>,
    /// A row of floats for each thread.
    scratch: Vec<Vec<f32>>,
}

impl Default for Input {
    fn default() -> Input {
        Input::new()
    }
}

impl Input {
    /// An empty buffer; it grows to the largest activations that it has held.
    pub fn new() -> Input {
        Input {
            rows: 0,
            k: 0,
            kind: InputKind::NONE,
            isa: Isa::SCALAR,
            float: Vec::new(),
            bf16: Bf16Input::default(),
            blocks: Vec::new(),
            wide: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Rows that it holds.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Activations of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Takes over `x: (rows, k)` in the forms of `kind`, for products on `isa`.
    ///
    /// # Panics
    /// When `x` is not `rows · k` long, or `kind` comes from a quantised matrix and `k` is no multiple of 32.
    pub fn fill(&mut self, isa: Isa, team: &Team, x: &[f32], rows: usize, k: usize, kind: InputKind) {
        assert_eq!(x.len(), rows * k, "activations of {rows} rows of {k}");
        self.fill_with(isa, team, rows, k, kind, &|row, to| to.copy_from_slice(&x[row * k..][..k]));
    }

    /// As [`Input::fill`], with rows that `make(row, to)` computes: what they are made of is read once, and what they are as
    /// floats never leaves the cache.
    ///
    /// # Panics
    /// When `kind` comes from a quantised matrix and `k` is no multiple of 32.
    pub fn fill_with(
        &mut self,
        isa: Isa,
        team: &Team,
        rows: usize,
        k: usize,
        kind: InputKind,
        make: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        self.fill_made(isa, team, kind, Made { rows, k, make, largest: &[] });
    }

    /// As [`Input::fill_with`], for rows of which others may hold the rest.
    ///
    /// # Panics
    /// As [`Input::fill_with`], and when there are other than no largest magnitudes or one for each row.
    pub fn fill_made(&mut self, isa: Isa, team: &Team, kind: InputKind, made: Made<'_>) {
        let Made { rows, k, make, largest } = made;
        assert!(largest.is_empty() || largest.len() == rows, "a largest magnitude for each row");
        (self.rows, self.k, self.kind, self.isa) = (rows, k, kind, isa);
        self.float.clear();
        if kind.float {
            self.float.resize(rows * k, 0.0);
            team.for_each_chunk(&mut self.float, k, ROW_GRAIN, make);
        }
        self.scratch.resize_with(team.threads(), Vec::new);
        let float = &self.float;
        if kind.bf16 {
            let copy = |row: usize, to: &mut [f32]| to.copy_from_slice(&float[row * k..][..k]);
            let make = if kind.float { &copy } else { make };
            self.bf16.fill(isa, team, [rows, k], &mut self.scratch, make);
        }
        if !kind.quantized {
            return;
        }
        assert!(k.is_multiple_of(32), "activations of a quantised matrix are whole blocks");
        let most = self.tile_rows();
        let row_blocks = k / 32;
        self.blocks.resize((rows * row_blocks * BLOCK_BYTES).div_ceil(64), Line([0; 64]));
        let bytes = &mut bytes_mut(&mut self.blocks)[..rows * row_blocks * BLOCK_BYTES];
        let row_bytes = row_blocks * BLOCK_BYTES;
        team.for_each_chunk_with(
            &mut self.scratch,
            bytes,
            most * row_bytes,
            ROW_GRAIN.div_ceil(most),
            &|scratch, chunk, mut bytes| {
                let mut row = chunk * most;
                while !bytes.is_empty() {
                    let tile = tile_rows(bytes.len() / row_bytes, most);
                    let (to, rest) = std::mem::take(&mut bytes).split_at_mut(tile * row_bytes);
                    bytes = rest;
                    for lane in 0..tile {
                        let x = if kind.float {
                            &float[(row + lane) * k..][..k]
                        } else {
                            scratch.resize(k, 0.0);
                            make(row + lane, scratch);
                            &scratch[..]
                        };
                        let largest = largest.get(row + lane).copied();
                        let (x, out, rounding) = (x.as_chunks().0, &mut *to, kind.rounding);
                        let quantize = Quantize { x, out, lane, rounding, largest };
                        match tile {
                            16 => isa.run(QuantizeTo::<16>(quantize)),
                            8 => isa.run(QuantizeTo::<8>(quantize)),
                            6 => isa.run(QuantizeTo::<6>(quantize)),
                            4 => isa.run(QuantizeTo::<4>(quantize)),
                            2 => isa.run(QuantizeTo::<2>(quantize)),
                            _ => isa.run(QuantizeTo::<1>(quantize)),
                        }
                    }
                    row += tile;
                }
            },
        );
        let wide = if kind.bytes && isa.wide() { rows * row_blocks } else { 0 };
        self.wide.resize(wide, WideBlock::default());
        let bytes = bytes_of(&self.blocks);
        team.for_each_chunk(&mut self.wide, most * row_blocks, 1, &|chunk, mut wide| {
            let mut bytes = &bytes[chunk * most * row_bytes..];
            while !wide.is_empty() {
                let tile = tile_rows(wide.len() / row_blocks, most);
                let (to, rest) = std::mem::take(&mut wide).split_at_mut(tile * row_blocks);
                wide = rest;
                // The bytes of a block begin with those of its activations.
                for (to, block) in to.chunks_exact_mut(tile).zip(bytes.chunks_exact(tile * BLOCK_BYTES)) {
                    for (to, q) in to.iter_mut().zip(block.as_chunks::<32>().0) {
                        *to = WideBlock::new(&q.map(|q| q as i8));
                    }
                }
                bytes = &bytes[tile * row_bytes..];
            }
        });
    }

    /// Rows of the largest register tile in whose order blocks lie.
    #[inline(always)]
    pub(crate) fn tile_rows(&self) -> usize {
        match self.isa.tile_rows() {
            MATRIX_ROWS if !self.kind.matrix => VECTOR_ROWS,
            rows => rows,
        }
    }

    /// Rows over which a claim goes panel by panel.
    pub(crate) fn chunk_rows(&self) -> usize {
        CHUNK_TILES * self.tile_rows()
    }

    /// Row `row` as floats.
    #[inline(always)]
    pub(crate) fn float_row(&self, row: usize) -> &[f32] {
        &self.float[row * self.k..][..self.k]
    }

    /// Rows as bf16.
    #[inline(always)]
    pub(crate) fn bf16(&self) -> &Bf16Input {
        &self.bf16
    }

    /// The blocks of the tile of `R` rows that begins with row `row`.
    #[inline(always)]
    pub(crate) fn tile<const R: usize>(&self, row: usize) -> &[XBlock<R>] {
        let row_bytes = self.k / 32 * BLOCK_BYTES;
        let bytes = &bytes_of(&self.blocks)[row * row_bytes..][..R * row_bytes];
        // SAFETY: lines are aligned and a row's bytes are a multiple of four, the alignment of a block; any bytes are a block,
        // and `R` rows of a row's blocks are `k / 32` blocks of `R` rows.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), self.k / 32) }
    }

    /// The same as 16-bit numbers; empty when the instruction set does not read them.
    #[inline(always)]
    pub(crate) fn wide_tile<const R: usize>(&self, row: usize) -> &[[WideBlock; R]] {
        if self.wide.is_empty() {
            &[]
        } else {
            self.wide[row * (self.k / 32)..][..R * (self.k / 32)].as_chunks().0
        }
    }

    /// Whether it holds the forms that a matrix reads on `isa`.
    pub(crate) fn serves(&self, isa: Isa, kind: InputKind) -> bool {
        self.kind.covers(kind) && (!(kind.quantized || kind.bf16) || self.isa == isa)
    }
}

/// Register tiles of rows that one claim of a product covers: their activations stay in the second-level cache over all panels.
const CHUNK_TILES: usize = 8;

/// Rows of as many of the largest tiles.
pub(crate) const MOST_CHUNK_ROWS: usize = MATRIX_ROWS * CHUNK_TILES;

/// Rows that a thread claims at once, so that claiming is cheap against quantising them.
const ROW_GRAIN: usize = 4;

/// Bytes of a block for each of its rows.
const BLOCK_BYTES: usize = size_of::<XBlock<1>>();

/// What blocks of any number of rows are kept in.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

fn bytes_of(lines: &[Line]) -> &[u8] {
    // SAFETY: a line is 64 initialised bytes without padding.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines)) }
}

fn bytes_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: as in `bytes_of`; any bytes are lines.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines)) }
}

/// Quantises one row.
struct Quantize<'a> {
    x: &'a [[f32; 32]],
    /// The blocks of a tile.
    out: &'a mut [u8],
    /// Row of the tile.
    lane: usize,
    rounding: Rounding,
    /// The largest magnitude of the row, if more than `x` belongs to it.
    largest: Option<f32>,
}

/// As a row of a tile of `R`.
struct QuantizeTo<'a, const R: usize>(Quantize<'a>);

impl<const R: usize> Kernel for QuantizeTo<'_, R> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Quantize { x, out, lane, rounding, largest } = self.0;
        assert!(
            lane < R && out.len() == x.len() * size_of::<XBlock<R>>(),
            "a block of the tile for every 32 activations"
        );
        let out = out.as_mut_ptr().cast::<XBlock<R>>();
        let shared = match rounding {
            Rounding::Blocks => None,
            Rounding::Rows => Some(ByteScale::of(largest.unwrap_or_else(|| largest_of(s, x)))),
            Rounding::Fixed(scale) => Some(ByteScale { scale, inverse: 1.0 / scale }),
        };
        for (i, x) in x.iter().enumerate() {
            // SAFETY: as many blocks were just checked to exist; where they begin is a multiple of four, as in `Input::tile`.
            let out = unsafe { &mut *out.add(i) };
            let halves = x.as_chunks::<16>().0;
            let halves = [s.load(&halves[0]), s.load(&halves[1])];
            let own = byte_scale(s, halves);
            let ByteScale { scale, inverse } = match &shared {
                // What is no number spoils its block by any rule.
                Some(shared) if !own.scale.is_nan() => *shared,
                _ => own,
            };
            let mut sums = [0; 2];
            // Written where they stay: reading them together again would have to wait for both halves to leave the core.
            let q = &mut out.q[lane];
            if inverse == 0.0 {
                *q = [0; 32];
            } else {
                let inverse = s.splat(inverse);
                let most = s.splat(127.0);
                for (i, (x, to)) in halves.into_iter().zip(q.as_chunks_mut::<16>().0).enumerate() {
                    let code = s.mul(x, inverse);
                    let inside = s.if_less(s.abs(code), most, code, s.copysign(most, code));
                    s.store_i8(to, if shared.is_some() { inside } else { code });
                    sums[i] = s.sum_i8(to);
                }
            }
            let sum = sums[0] + sums[1];
            // Zero if the block is, NaN if it is spoilt.
            let weighted = scale * f32::from(sum);
            (out.scale[lane], out.weighted[lane], out.sums[lane]) = (scale, weighted, sums);
            let bias = |zero: i32| -zero * i32::from(sum);
            (out.bias_8[lane], out.bias_128[lane]) = (bias(8), bias(128));
        }
    }
}

#[cfg(test)]
mod tests;
