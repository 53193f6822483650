//! Decides how a matrix product is cut into register tiles and shared by the team.
//!
//! `y[r][n] = Σ_k x[r][k] · w[n][k]`. For quantised weights, in ascending order of blocks `b` of 32 inputs
//! (16 where the format scales 16 at a time):
//! `y ← fma(d_w · d_x, Σ (code - zero) · q, y)` with an exact integer sum, then for affine formats
//! `y ← fma(min, d_x · Σ q, y)`. For float weights `y ← fma(x[k], w[k], y)` for ascending `k`.
//! A tile never changes that order, so neither rows nor threads nor registers change a bit of the result.
#![expect(unsafe_code, reason = "threads write disjoint columns of one output")]

use std::{marker::PhantomData, mem::MaybeUninit, ops::Range};

use crate::{
    DType, Input, Isa, PackedMatrix, Team,
    block::{Format, Scales},
    isa::Kernel,
    matrix::{Panel, QuantLayout},
    simd::{
        BYTE_BLOCK, ByteBlock, CodeRange, LANES, MATRIX_BLOCKS, MATRIX_ROWS, Many, MatrixSums, NIBBLE_BLOCK,
        QuantWeights, Simd, WideBlock, XBlock, load_part, store_part, tile_rows,
    },
};

/// Register tiles of rows that one claim covers: their activations stay in the second-level cache over all panels.
const CHUNK_TILES: usize = 8;

/// Rows of as many of the largest tiles.
const MOST_ROWS: usize = MATRIX_ROWS * CHUNK_TILES;

/// Weight bytes times row tiles that one claim covers at least, so that claiming is cheap against it.
const CLAIM_BYTES: usize = 64 << 10;

/// What becomes of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// It replaces what was there.
    Set,
    /// It is added to what was there.
    Add,
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
    let rows = x.rows();
    assert_eq!(x.k(), w.k(), "inputs of the matrix");
    assert!(x.serves(isa, w.input()), "activations were filled for this matrix and instruction set");
    if rows == 0 || w.n() == 0 {
        return;
    }
    assert!(stride >= w.n() && y.len() >= (rows - 1) * stride + w.n(), "room for the result");
    let out = Output { start: y.as_mut_ptr(), stride, store, rows: PhantomData };
    let panels = w.panels();
    let most = CHUNK_TILES * isa.tile_rows();
    let many = w.formats().map(|format| isa.many().rows(format, rows)).min().unwrap_or(0);
    for (rows, is_many) in [(0..many, true), (many..rows, false)] {
        let panel_cost = (w.bytes() / panels.max(1)).max(1) * rows.len().min(most).div_ceil(4).max(1);
        let grain = CLAIM_BYTES.div_ceil(panel_cost).min(panels.div_ceil(4 * team.threads())).max(1);
        team.for_each(panels * rows.len().div_ceil(most), grain, &|items| {
            let claim = Claim { x, w, out, rows: rows.clone(), items };
            if is_many { isa.run(ManyRows(claim)) } else { isa.run(FewRows(claim)) }
        });
    }
}

/// What one thread computes at a time: item `i` is panel `i mod panels` for chunk `i / panels` of the rows.
struct Claim<'a> {
    x: &'a Input,
    w: &'a PackedMatrix,
    out: Output<'a>,
    rows: Range<usize>,
    items: Range<usize>,
}

impl<'a> Claim<'a> {
    #[inline(always)]
    fn products<S: Simd>(self) -> impl Iterator<Item = PanelProduct<'a>> {
        let Claim { x, w, out, rows, items } = self;
        let (panels, most) = (w.panels(), CHUNK_TILES * S::ROWS);
        items.map(move |item| {
            let first = rows.start + item / panels * most;
            let rows = first..rows.end.min(first + most);
            let panel = w.panel(item % panels);
            // SAFETY: every item is claimed once, and no two items share both rows and columns.
            let out = unsafe { out.at(rows.start, panel.first) };
            PanelProduct { x, rows, panel, out }
        })
    }
}

/// Where results go. `at` hands out windows that overlap in memory but not in the elements written.
#[derive(Clone, Copy)]
struct Output<'a> {
    start: *mut f32,
    stride: usize,
    store: Store,
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

/// Products of so few rows that every tile unpacks the weights in its registers.
struct FewRows<'a>(Claim<'a>);

/// Products of rows of which [`Many`] says that they are computed together. A kernel of its own: setting up what it works with
/// costs more than the product of a single row.
struct ManyRows<'a>(Claim<'a>);

/// What a claim of many rows works with.
struct Workspace<S: Simd> {
    /// Codes of a segment.
    codes: [MaybeUninit<ByteBlock>; SEGMENT],
    /// Results of the segments so far, row by row of the claim.
    sums: [[f32; LANES]; MOST_ROWS],
    matrix: MatrixSums,
    tiles: Option<S::Tiles>,
}

/// Calls a function of the type of `$product`'s panel.
macro_rules! by_type {
    ($product:expr, $float:expr, $quant:ident($($argument:expr),*)) => {
        match $product.panel.dtype {
            DType::F32 | DType::F16 | DType::BF16 => $float,
            DType::Q4_0 => Quant::<{ DType::Q4_0 as usize }>::$quant($($argument),*),
            DType::Q4_1 => Quant::<{ DType::Q4_1 as usize }>::$quant($($argument),*),
            DType::Q5_0 => Quant::<{ DType::Q5_0 as usize }>::$quant($($argument),*),
            DType::Q5_1 => Quant::<{ DType::Q5_1 as usize }>::$quant($($argument),*),
            DType::Q8_0 => Quant::<{ DType::Q8_0 as usize }>::$quant($($argument),*),
            DType::Q2K => Quant::<{ DType::Q2K as usize }>::$quant($($argument),*),
            DType::Q3K => Quant::<{ DType::Q3K as usize }>::$quant($($argument),*),
            DType::Q4K => Quant::<{ DType::Q4K as usize }>::$quant($($argument),*),
            DType::Q5K => Quant::<{ DType::Q5K as usize }>::$quant($($argument),*),
            DType::Q6K => Quant::<{ DType::Q6K as usize }>::$quant($($argument),*),
        }
    };
}

#[inline(always)]
fn float_rows<S: Simd>(s: S, mut product: PanelProduct<'_>) {
    match product.panel.dtype {
        DType::F32 => product.tiles(s, F32),
        DType::F16 => product.tiles(s, F16),
        DType::BF16 => product.tiles(s, Bf16),
        quantised => unreachable!("{quantised} is no type of floats"),
    }
}

impl Kernel for FewRows<'_> {
    const TILES: bool = true;
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for product in self.0.products::<S>() {
            by_type!(product, float_rows(s, product), few_rows(s, product));
        }
    }
}

impl Kernel for ManyRows<'_> {
    const TILES: bool = true;
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut work = Workspace::<S> {
            codes: [MaybeUninit::uninit(); SEGMENT],
            sums: [[0.0; LANES]; MOST_ROWS],
            matrix: MatrixSums([[[0; LANES]; MATRIX_ROWS]; MATRIX_BLOCKS]),
            tiles: (S::MANY == Many::Matrix).then(|| s.tiles()),
        };
        for product in self.0.products::<S>() {
            by_type!(product, unreachable!("`Many` knows no floats"), many_rows(s, &mut work, product));
        }
    }
}

impl PanelProduct<'_> {
    /// One register tile after the other.
    #[inline(always)]
    fn tiles<S: Simd>(&mut self, s: S, mut each: impl TileFn<S>) {
        let mut row = 0;
        while row < self.rows.len() {
            let rows = tile_rows(self.rows.len() - row, S::ROWS);
            match rows {
                MATRIX_ROWS if S::ROWS == MATRIX_ROWS => each.call::<MATRIX_ROWS>(s, self, row),
                8 if S::ROWS >= 8 => each.call::<8>(s, self, row),
                6 if S::ROWS == 6 => each.call::<6>(s, self, row),
                4 => each.call::<4>(s, self, row),
                2 => each.call::<2>(s, self, row),
                _ => each.call::<1>(s, self, row),
            }
            row += rows;
        }
    }

    /// Stores the result of the tile that begins with row `row`, or lets it wait for the next segment.
    #[inline(always)]
    fn finish_segment<S: Simd, const R: usize>(
        &mut self,
        s: S,
        row: usize,
        y: [S::F; R],
        waiting: &mut [[f32; LANES]],
        last: bool,
    ) {
        if last {
            return self.finish(s, row, y);
        }
        for r in 0..R {
            s.store(&mut waiting[r], y[r]);
        }
    }

    /// Stores the result of the tile that begins with row `row`.
    #[inline(always)]
    fn finish<S: Simd, const R: usize>(&mut self, s: S, row: usize, y: [S::F; R]) {
        let store = self.out.store;
        for (r, y) in y.into_iter().enumerate() {
            // SAFETY: the claim covers these rows and the panel's outputs.
            let to = unsafe { self.out.row(row + r, self.panel.outputs) };
            let y = match store {
                Store::Set => y,
                Store::Add => s.add(load_part(s, to, 0.0), y),
            };
            store_part(s, to, y);
        }
    }
}

/// Results of a tile before the segment that begins with block `first`, from where they wait.
#[inline(always)]
fn start<S: Simd, const R: usize>(s: S, first: usize, waiting: &[[f32; LANES]]) -> [S::F; R] {
    let mut y = [s.splat(0.0); R];
    if first > 0 {
        for r in 0..R {
            y[r] = s.load(&waiting[r]);
        }
    }
    y
}

/// What is done with a register tile of `R` rows; a closure cannot be generic over `R`.
trait TileFn<S: Simd> {
    fn call<const R: usize>(&mut self, s: S, product: &mut PanelProduct<'_>, row: usize);
}

macro_rules! float_tile {
    ($name:ident, $element:ty, $load:ident) => {
        struct $name;

        impl<S: Simd> TileFn<S> for $name {
            #[inline(always)]
            fn call<const R: usize>(&mut self, s: S, product: &mut PanelProduct<'_>, row: usize) {
                let first = product.rows.start + row;
                let x: [&[f32]; R] = std::array::from_fn(|r| product.x.float_row(first + r));
                let mut y = [s.splat(0.0); R];
                let weights = product.panel.data.as_chunks::<{ LANES * size_of::<$element>() }>().0;
                for (k, w) in weights.iter().enumerate() {
                    // SAFETY: any bits are a value of the element type; the array has exactly its bytes.
                    let w = s.$load(&unsafe { w.as_ptr().cast::<[$element; LANES]>().read_unaligned() });
                    for r in 0..R {
                        y[r] = s.fma(s.splat(x[r][k]), w, y[r]);
                    }
                }
                product.finish(s, row, y);
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

/// Blocks of 32 inputs that are unpacked at once, whole groups of every format: as much as leaves room in the first-level
/// cache for the activations of a tile.
const SEGMENT: usize = 48;

/// The codes of a segment with a byte for each.
type Unpacked<'a> = &'a [ByteBlock];

impl<const T: usize> Quant<T> {
    #[inline(always)]
    fn few_rows<S: Simd>(s: S, mut product: PanelProduct<'_>) {
        product.tiles(s, WholePanel::<T>);
    }

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
                        let x = &product.x.tile::<MATRIX_ROWS>(product.rows.start + row)[first..];
                        let waiting = &mut sums[row..row + MATRIX_ROWS];
                        let mut y = start(s, first, waiting);
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
                    let (unpacked, sums) = (Self::unpack(s, groups, 0, codes), &mut sums[..]);
                    product.tiles(s, Segment::<T> { first, groups, unpacked, sums, last });
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
            for r in 0..MATRIX_ROWS {
                let sum = s.to_float(s.load_int(&sums.0[i][r]));
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

    /// Exact integer sums of one block of 32 inputs.
    #[inline(always)]
    fn products<S: Simd, const R: usize>(
        s: S,
        w: &[u8],
        x: &XBlock<R>,
        wide: &[WideBlock; R],
    ) -> [[S::I; R]; 2] {
        let Format { range, zero, affine: _, scales: _, halves } = Self::FORMAT;
        let zero = i16::from(zero);
        // Codes of four bits that have been unpacked are bytes.
        if range == CodeRange::Bits4 && w.len() == NIBBLE_BLOCK {
            let w = w.first_chunk().expect("a block of codes");
            if halves { s.nibbles::<R, true>(w, x, zero) } else { s.nibbles::<R, false>(w, x, zero) }
        } else {
            let w = w.first_chunk().expect("a block of codes");
            if halves {
                s.bytes::<R, true>(w, range, x, wide, zero)
            } else {
                s.bytes::<R, false>(w, range, x, wide, zero)
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

impl<const T: usize> Quant<T> {
    /// Adds the products with some groups of a panel to `y`.
    #[inline(always)]
    fn add<S: Simd, const R: usize>(
        s: S,
        mut y: [S::F; R],
        x: &[XBlock<R>],
        wide: &[[WideBlock; R]],
        groups: &[u8],
        unpacked: Option<Unpacked<'_>>,
    ) -> [S::F; R] {
        let (format, layout) = (Self::FORMAT, Self::LAYOUT);
        let wide = if S::WIDE && format.range == CodeRange::Bits8 { Some(wide) } else { None };
        for (group, data) in groups.chunks_exact(layout.group()).enumerate() {
            if R <= 4 {
                prefetch(data);
            }
            let (codes, scales) = data.split_at(layout.codes * layout.blocks);
            let (d, min) = Self::heads(s, scales);
            for block in 0..layout.blocks {
                let at = group * layout.blocks + block;
                let x = &x[at];
                let wide = match wide {
                    Some(wide) => &wide[at],
                    None => const { &[WideBlock([0; 32]); R] },
                };
                let codes = match unpacked {
                    Some(unpacked) => &unpacked[at].0[..],
                    None => &codes[block * layout.codes..][..layout.codes],
                };
                let sums = Self::products::<S, R>(s, codes, x, wide);
                let factors = &scales[layout.head + block * layout.factors..];
                for sub in 0..if format.halves { 2 } else { 1 } {
                    let (scale, min) = Self::scales(s, d, min, factors, sub);
                    for r in 0..R {
                        let dx = s.splat(x.scale[r]);
                        y[r] = s.fma(s.mul(scale, dx), s.to_float(sums[sub][r]), y[r]);
                        if format.affine {
                            let weighted = if format.halves {
                                x.scale[r] * f32::from(x.sums[r][sub])
                            } else {
                                x.weighted[r]
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

impl<const T: usize> Quant<T> {
    /// Scales and minima of a group before any factors.
    #[inline(always)]
    fn heads<S: Simd>(s: S, scales: &[u8]) -> (S::F, S::F) {
        let d = half_lanes(s, &scales[..2 * LANES]);
        let min = match (Self::FORMAT.affine, Self::FORMAT.scales) {
            (false, _) => d,
            (true, Scales::Half) => half_lanes(s, &scales[2 * LANES..]),
            // These formats subtract their minima.
            (true, Scales::Super) => s.sub(s.splat(0.0), half_lanes(s, &scales[2 * LANES..])),
        };
        (d, min)
    }
}

/// A tile over all of a panel.
struct WholePanel<const T: usize>;

impl<const T: usize, S: Simd> TileFn<S> for WholePanel<T> {
    #[inline(always)]
    fn call<const R: usize>(&mut self, s: S, product: &mut PanelProduct<'_>, row: usize) {
        let first = product.rows.start + row;
        let (x, wide) = (product.x.tile::<R>(first), product.x.wide_tile::<R>(first));
        let y = match s.panel::<Quant<T>, R>(x, wide, product.panel.data) {
            Some(y) => y,
            None => Quant::<T>::add(s, [s.splat(0.0); R], x, wide, product.panel.data, None),
        };
        product.finish(s, row, y);
    }
}

/// A tile over a segment of a panel.
struct Segment<'a, const T: usize> {
    /// Block with which it begins.
    first: usize,
    groups: &'a [u8],
    unpacked: Unpacked<'a>,
    /// Results of the segments before, row by row of the claim.
    sums: &'a mut [[f32; LANES]],
    last: bool,
}

impl<const T: usize, S: Simd> TileFn<S> for Segment<'_, T> {
    #[inline(always)]
    fn call<const R: usize>(&mut self, s: S, product: &mut PanelProduct<'_>, row: usize) {
        let sums = &mut self.sums[row..row + R];
        let y = start(s, self.first, sums);
        let x = &product.x.tile::<R>(product.rows.start + row)[self.first..];
        let y = Quant::<T>::add(s, y, x, &[], self.groups, Some(self.unpacked));
        product.finish_segment(s, row, y, sums, self.last);
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
