//! Decides how many rows are multiplied: a panel is unpacked once for all of them, a segment at a time, and multiplied by vectors
//! or by a matrix unit.
#![expect(unsafe_code, reason = "unpacked codes are written before they are read")]

use std::mem::MaybeUninit;

use super::{
    Claim, PanelProduct, TileFn,
    quant::{Quant, Unpacked},
};
use crate::{
    DType,
    input::MOST_CHUNK_ROWS,
    isa::Kernel,
    simd::{
        BYTE_BLOCK, ByteBlock, CodeRange, LANES, MATRIX_BLOCKS, MATRIX_ROWS, Many, MatrixSums, NIBBLE_BLOCK,
        QuantWeights as _, Simd, XBlock, lanes, prefetch,
    },
};

/// Blocks of 32 inputs that are unpacked at once, whole groups of every format: as much as leaves room in the first-level
/// cache for the activations of a tile.
const SEGMENT: usize = 48;

/// Products of rows of which [`Many`] says that they are computed together. A kernel of its own: setting up what it works with
/// costs more than the product of a single row.
pub(super) struct ManyRows<'a, const T: usize>(pub(super) Claim<'a>);

impl<const T: usize> Kernel for ManyRows<'_, T> {
    const TILES: bool = true;
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut work = Workspace::<S> {
            codes: [MaybeUninit::uninit(); SEGMENT],
            sums: [MaybeUninit::uninit(); MOST_CHUNK_ROWS],
            matrix: MatrixSums([MaybeUninit::uninit(); MATRIX_BLOCKS]),
            tiles: (S::MANY == Many::Matrix).then(|| s.tiles()),
        };
        for product in self.0.products() {
            Quant::<T>::many_rows(s, &mut work, product);
        }
    }
}

/// What a claim of many rows works with; clearing it would take as long as a panel of a few rows.
struct Workspace<S: Simd> {
    /// Codes of a segment.
    codes: [MaybeUninit<ByteBlock>; SEGMENT],
    /// Results of the segments so far, row by row of the claim.
    sums: [MaybeUninit<[f32; LANES]>; MOST_CHUNK_ROWS],
    matrix: MatrixSums,
    tiles: Option<S::Tiles>,
}

impl<const T: usize> Quant<T> {
    /// Unpacks one segment of the panel after the other, each for all rows of the claim. Results so far wait in memory, which
    /// changes no bit of them. A matrix unit multiplies signed bytes, so that its codes are less the zero point and nothing is
    /// left to take off.
    #[inline(always)]
    fn many_rows<S: Simd>(s: S, work: &mut Workspace<S>, mut product: PanelProduct<'_>) {
        let Workspace { codes, sums, matrix, tiles } = work;
        for (first, groups, last) in Self::segments(product.panel.data) {
            match (S::MANY, &mut *tiles) {
                (Many::Matrix, Some(tiles)) if !Self::FORMAT.halves => {
                    let unpacked = Self::unpack(s, groups, Self::FORMAT.zero, codes);
                    for row in (0..product.rows.len()).step_by(MATRIX_ROWS) {
                        let waiting = &mut sums[row..row + MATRIX_ROWS];
                        let mut y = product.resume(s, first, row, waiting);
                        let x = &product.x.tile::<MATRIX_ROWS>(product.rows.start + row)[first..];
                        for (run, codes) in unpacked.chunks(MATRIX_BLOCKS).enumerate() {
                            let at = run * MATRIX_BLOCKS;
                            let x = &x[at..at + codes.len()];
                            s.matrix(x, codes, tiles, matrix);
                            Self::scale_matrix(s, &mut y, x, groups, at, matrix);
                        }
                        product.finish_segment(s, row, y, waiting, last);
                    }
                }
                (Many::Unpack, _) if matches!(Self::FORMAT.range, CodeRange::Bits4) => {
                    let most = product.x.tile_rows();
                    let (unpacked, sums) = (Self::unpack(s, groups, 0, codes), &mut sums[..]);
                    product.tiles(s, most, Segment::<T> { first, groups, unpacked, sums, last });
                }
                _ => unreachable!("`Many` has no rows for {}", DType::ALL[T]),
            }
        }
    }

    /// Adds what a matrix unit has summed over some blocks, of which the first is block `first` of `groups`.
    #[inline(always)]
    fn scale_matrix<S: Simd>(
        s: S,
        y: &mut [S::F; MATRIX_ROWS],
        x: &[XBlock<MATRIX_ROWS>],
        groups: &[u8],
        first: usize,
        sums: &MatrixSums,
    ) {
        let layout = Self::LAYOUT;
        for (i, x) in x.iter().enumerate() {
            let at = first + i;
            let group = &groups[at / layout.blocks * layout.group()..][..layout.group()];
            let scales = &group[layout.codes * layout.blocks..];
            let (d, min) = Self::heads(s, scales);
            let factors = &scales[layout.head + at % layout.blocks * layout.factors..];
            let (scale, min) = Self::scales(s, d, min, factors, 0);
            // SAFETY: the unit has written a block of sums for every block of activations.
            let block = unsafe { sums.0[i].assume_init_ref() };
            for r in 0..MATRIX_ROWS {
                let sum = s.to_float(s.load_int(&block[r]));
                y[r] = s.fma(s.mul(scale, s.splat(x.scale[r])), sum, y[r]);
                if Self::FORMAT.affine {
                    y[r] = s.fma(min, s.splat(x.weighted[r]), y[r]);
                }
            }
        }
    }

    /// The segments of a panel: the block with which each begins, its groups, and whether it is the last.
    #[inline(always)]
    fn segments(panel: &[u8]) -> impl Iterator<Item = (usize, &[u8], bool)> {
        let bytes = Self::LAYOUT.group() * (SEGMENT / Self::LAYOUT.blocks);
        let count = panel.len().div_ceil(bytes);
        panel.chunks(bytes).enumerate().map(move |(i, groups)| (i * SEGMENT, groups, i + 1 == count))
    }

    /// Codes of some groups, less `zero`, with a byte for each.
    #[inline(always)]
    fn unpack<'a, S: Simd>(
        s: S,
        groups: &[u8],
        zero: u8,
        to: &'a mut [MaybeUninit<ByteBlock>; SEGMENT],
    ) -> Unpacked<'a> {
        let layout = Self::LAYOUT;
        let mut blocks = 0;
        for group in groups.chunks_exact(layout.group()) {
            prefetch(group);
            for packed in group.chunks_exact(layout.codes).take(layout.blocks) {
                let to = &mut to[blocks].write(ByteBlock([0; BYTE_BLOCK])).0;
                match packed.first_chunk() {
                    Some(nibbles) if layout.codes == NIBBLE_BLOCK => s.unpack(nibbles, zero, to),
                    _ => to.iter_mut().zip(packed).for_each(|(to, code)| *to = code.wrapping_sub(zero)),
                }
                blocks += 1;
            }
        }
        // SAFETY: that many have just been written.
        unsafe { to[..blocks].assume_init_ref() }
    }
}

impl PanelProduct<'_> {
    /// Results of the tile that begins with row `row` before the segment that begins with block `first`: where they wait, or what
    /// its sums begin with.
    #[inline(always)]
    fn resume<S: Simd, const R: usize>(
        &mut self,
        s: S,
        first: usize,
        row: usize,
        waiting: &[MaybeUninit<[f32; LANES]>],
    ) -> [S::F; R] {
        if first == 0 {
            return self.begin(s, row);
        }
        let mut y = [s.splat(0.0); R];
        for r in 0..R {
            // SAFETY: every segment but the last has written it for the next.
            y[r] = s.load(unsafe { waiting[r].assume_init_ref() });
        }
        y
    }

    /// Stores the result of the tile that begins with row `row`, or lets it wait for the next segment.
    #[inline(always)]
    fn finish_segment<S: Simd, const R: usize>(
        &mut self,
        s: S,
        row: usize,
        y: [S::F; R],
        waiting: &mut [MaybeUninit<[f32; LANES]>],
        last: bool,
    ) {
        if last {
            return self.finish(s, row, y);
        }
        for r in 0..R {
            waiting[r].write(lanes(s, y[r]));
        }
    }
}

/// A tile over a segment of a panel.
struct Segment<'a, const T: usize> {
    /// Block with which it begins.
    first: usize,
    groups: &'a [u8],
    unpacked: Unpacked<'a>,
    /// Results of the segments before, row by row of the claim.
    sums: &'a mut [MaybeUninit<[f32; LANES]>],
    last: bool,
}

impl<const T: usize, S: Simd> TileFn<S> for Segment<'_, T> {
    #[inline(always)]
    fn call<const R: usize>(&mut self, s: S, product: &mut PanelProduct<'_>, row: usize) {
        let sums = &mut self.sums[row..row + R];
        let y = product.resume(s, self.first, row, sums);
        let x = &product.x.tile::<R>(product.rows.start + row)[self.first..];
        let y = Quant::<T>::add(s, y, x, &[], self.groups, Some(self.unpacked));
        product.finish_segment(s, row, y, sums, self.last);
    }
}
