//! Decides how BF16 weights are multiplied with activations in bf16: in the one order that the instruction set has for any number of
//! rows, by multiply-adds of floats, dot products of pairs, or a matrix unit.

#![expect(unsafe_code, reason = "reads what the matrix unit has written")]

use std::mem::MaybeUninit;

use super::{Claim, PanelProduct, Store, TileFn};
use crate::{
    isa::Kernel,
    matrix::Panel,
    simd::{BF16_BLOCK, Begin, Bf16Order, Bf16Sums, LANES, MATRIX_ROWS, Simd, VECTOR_ROWS, lanes, prefetch},
};

/// Products of panels of BF16.
pub(super) struct Bf16Products<'a>(pub(super) Claim<'a>);

impl Kernel for Bf16Products<'_> {
    const TILES: bool = true;
    const BF16: bool = true;
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match S::BF16 {
            Bf16Order::Ascending => {
                for mut product in self.0.products() {
                    product.tiles(s, S::ROWS.min(VECTOR_ROWS), Floats);
                }
            }
            Bf16Order::OddFirst => {
                for mut product in self.0.products() {
                    product.tiles(s, VECTOR_ROWS, Pairs);
                }
            }
            Bf16Order::Blocks => blocks(s, self.0),
        }
    }
}

/// Pairs of inputs of sixteen outputs.
const PAIR: usize = 4 * LANES;

/// Blocks of 32 inputs of a panel.
#[inline(always)]
fn blocks_of<'a>(panel: &Panel<'a>) -> &'a [[u8; BF16_BLOCK]] {
    panel.data.as_chunks().0
}

/// A tile of floats that have been rounded to bf16.
struct Floats;

impl<S: Simd> TileFn<S> for Floats {
    #[inline(always)]
    fn call<const R: usize>(&mut self, s: S, product: &mut PanelProduct<'_>, row: usize) {
        let mut y = product.begin::<S, R>(s, row);
        let first = product.rows.start + row;
        let pairs = product.panel.data.as_chunks::<PAIR>().0;
        let x: [&[[f32; 2]]; R] =
            std::array::from_fn(|r| &product.x.bf16().float_row(first + r).as_chunks().0[..pairs.len()]);
        for (k, pair) in pairs.iter().enumerate() {
            prefetch(pair);
            for (at, w) in s.load_pairs(pair).into_iter().enumerate() {
                for r in 0..R {
                    y[r] = s.fma(s.splat(x[r][k][at]), w, y[r]);
                }
            }
        }
        product.finish(s, row, y);
    }
}

/// A tile of dot products of pairs.
struct Pairs;

impl<S: Simd> TileFn<S> for Pairs {
    #[inline(always)]
    fn call<const R: usize>(&mut self, s: S, product: &mut PanelProduct<'_>, row: usize) {
        let mut y = product.begin::<S, R>(s, row);
        let first = product.rows.start + row;
        let group = product.x.bf16().rows(first / MATRIX_ROWS * MATRIX_ROWS);
        let at = first % MATRIX_ROWS;
        for (x, block) in group.lines.chunks_exact(group.rows.max(1)).zip(blocks_of(&product.panel)) {
            let x: [&[[u16; 2]]; R] = std::array::from_fn(|r| x[at + r].0.as_chunks().0);
            prefetch(block);
            for (k, pair) in block.as_chunks::<PAIR>().0.iter().enumerate() {
                for r in 0..R {
                    let [first, second] = x[r][k];
                    y[r] = s.add_pairs(y[r], pair, u32::from(first) | u32::from(second) << 16);
                }
            }
        }
        product.finish(s, row, y);
    }
}

/// All rows of a claim by a matrix unit, two panels by 32 rows at a time while there are as many.
#[inline(always)]
fn blocks<S: Simd>(s: S, claim: Claim<'_>) {
    let mut tiles = s.tiles();
    let mut sums = Bf16Sums([const { [const { [MaybeUninit::uninit(); MATRIX_ROWS] }; 2] }; 2]);
    let mut products = claim.products();
    while let Some(mut first) = products.next() {
        match products.next() {
            Some(second) => panels(s, [&mut first, &mut { second }], &mut tiles, &mut sums),
            None => panels(s, [&mut first], &mut tiles, &mut sums),
        }
    }
}

/// All rows by one panel or two.
#[inline(always)]
fn panels<S: Simd, const W: usize>(
    s: S,
    mut products: [&mut PanelProduct<'_>; W],
    tiles: &mut S::Tiles,
    sums: &mut Bf16Sums,
) {
    let (x, rows) = (products[0].x.bf16(), products[0].rows.clone());
    let w = products.each_ref().map(|product| blocks_of(&product.panel));
    let begin = match products[0].out.store {
        Store::Set | Store::Add => Begin::Zero,
        Store::Continue => Begin::There,
    };
    for row in rows.clone().step_by(2 * MATRIX_ROWS) {
        let first = x.rows(row);
        let second = if row + MATRIX_ROWS < rows.end { Some(x.rows(row + MATRIX_ROWS)) } else { None };
        let counts = [first.rows, second.map_or(0, |second| second.rows)];
        if begin == Begin::There {
            each_row(&mut products, counts, |product, [tile, panel, r]| {
                let [y] = product.begin(s, row - product.rows.start + tile * MATRIX_ROWS + r);
                sums.0[tile][panel][r].write(lanes(s, y));
            });
        }
        match second {
            Some(second) => s.bf16_matrix([first, second], w, tiles, begin, sums),
            None => s.bf16_matrix([first], w, tiles, begin, sums),
        }
        each_row(&mut products, counts, |product, [tile, panel, r]| {
            // SAFETY: the unit has just written these rows.
            let y = s.load(unsafe { sums.0[tile][panel][r].assume_init_ref() });
            product.finish(s, row - product.rows.start + tile * MATRIX_ROWS + r, [y]);
        });
    }
}

/// Calls `f` with each panel's product, and where its rows are among the sums: tile, panel and row of the tile. Tiles have
/// `counts` rows.
#[inline(always)]
fn each_row<'a, const W: usize>(
    products: &mut [&mut PanelProduct<'a>; W],
    counts: [usize; 2],
    mut f: impl FnMut(&mut PanelProduct<'a>, [usize; 3]),
) {
    for (panel, product) in products.iter_mut().enumerate() {
        for (tile, rows) in counts.into_iter().enumerate() {
            for r in 0..rows {
                f(product, [tile, panel, r]);
            }
        }
    }
}
