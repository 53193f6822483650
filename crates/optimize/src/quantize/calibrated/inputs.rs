//! Decides what is remembered of the activations that a matrix reads: extremes, mean squares, some rows as they are, and for
//! those who ask the sums of products of every two inputs.

use rayon::iter::{IndexedParallelIterator as _, ParallelIterator as _};
use rayon::slice::ParallelSliceMut as _;

use super::dots;

/// Rows that are kept as they are.
const SAMPLE: usize = 256;

/// Rows whose products are summed at once: a block of them stays in a cache.
const BLOCK: usize = 256;

/// What a text sends into one matrix, or into several that read the same.
#[derive(Clone, Debug)]
pub(super) struct Inputs {
    width: usize,
    rows: usize,
    squares: Vec<f64>,
    magnitudes: Vec<f64>,
    most: Vec<f32>,
    sample: Vec<f32>,
    /// Every so many rows one is kept.
    stride: usize,
    /// Lower triangle of `(width, width)`, row after row of the full width; empty if nobody asked.
    products: Vec<f32>,
    with_products: bool,
    /// Rows that are not in the products yet, column after column: `(width, BLOCK)`.
    pending: Vec<f32>,
}

impl Inputs {
    /// Of nothing yet; `expected` rows will come.
    pub(super) fn new(expected: usize, with_products: bool) -> Inputs {
        Inputs {
            width: 0,
            rows: 0,
            squares: Vec::new(),
            magnitudes: Vec::new(),
            most: Vec::new(),
            sample: Vec::new(),
            stride: (expected / SAMPLE).max(1),
            products: Vec::new(),
            with_products,
            pending: Vec::new(),
        }
    }

    /// Takes in rows of `width`.
    pub(super) fn add(&mut self, rows: &[f32], width: usize) {
        self.width = width;
        self.squares.resize(width, 0.0);
        self.magnitudes.resize(width, 0.0);
        self.most.resize(width, 0.0);
        for row in rows.chunks_exact(width) {
            for (i, x) in row.iter().enumerate() {
                self.squares[i] += f64::from(x * x);
                self.magnitudes[i] += f64::from(x.abs());
                // NaN is not lost in the sums.
                self.most[i] = self.most[i].max(x.abs());
            }
            if self.rows.is_multiple_of(self.stride) {
                self.sample.extend_from_slice(row);
            }
            if self.with_products {
                self.pending.resize(width * BLOCK, 0.0);
                let place = self.rows % BLOCK;
                row.iter().enumerate().for_each(|(i, x)| self.pending[i * BLOCK + place] = *x);
                if place == BLOCK - 1 {
                    self.sum_products(BLOCK);
                }
            }
            self.rows += 1;
        }
    }

    fn sum_products(&mut self, rows: usize) {
        let width = self.width;
        self.products.resize(width * width, 0.0);
        let pending = &self.pending;
        let column = |i: usize| &pending[i * BLOCK..][..rows];
        self.products.par_chunks_mut(width).with_min_len(8).enumerate().for_each(|(i, products)| {
            dots::add(&mut products[..=i], column(i), column);
        });
    }

    /// All rows are in.
    pub(super) fn finish(&mut self) {
        let left = self.rows % BLOCK;
        if self.with_products && left > 0 {
            self.sum_products(left);
        }
        self.pending = Vec::new();
    }

    /// Whether every number was one.
    pub(super) fn is_finite(&self) -> bool {
        self.squares.iter().all(|x| x.is_finite())
    }

    /// Elements of a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Mean square of each input.
    pub(super) fn mean_squares(&self) -> Vec<f32> {
        self.squares.iter().map(|sum| (sum / self.rows.max(1) as f64) as f32).collect()
    }

    /// Mean magnitude of each input.
    pub(super) fn mean_magnitudes(&self) -> Vec<f32> {
        self.magnitudes.iter().map(|sum| (sum / self.rows.max(1) as f64) as f32).collect()
    }

    /// Largest magnitude of each input.
    pub(super) fn most(&self) -> &[f32] {
        &self.most
    }

    /// Some rows as they are.
    pub(super) fn sample(&self) -> impl Iterator<Item = &[f32]> {
        self.sample.chunks_exact(self.width.max(1))
    }

    /// Sums of products of every two inputs, the lower triangle; empty if nobody asked.
    pub(super) fn take_products(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.products)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_products_are_those_of_all_rows_however_they_come() {
        let (width, count) = (5, BLOCK + 40);
        let rows: Vec<f32> = (0..count * width).map(|i| (i * i % 7) as f32 - 3.0).collect();
        let mut inputs = Inputs::new(count, true);
        rows.chunks(33 * width).for_each(|rows| inputs.add(rows, width));
        inputs.finish();
        let column = |i: usize| rows.iter().skip(i).step_by(width);
        let products = inputs.take_products();
        for i in 0..width {
            let squares: f32 = column(i).map(|x| x * x).sum();
            assert_eq!(inputs.mean_squares()[i], squares / count as f32);
            assert_eq!(inputs.most()[i], column(i).fold(0.0, |most: f32, x| most.max(x.abs())));
            for j in 0..=i {
                let sum: f32 = column(i).zip(column(j)).map(|(x, y)| x * y).sum();
                assert_eq!(products[i * width + j], sum, "{i} {j}");
            }
        }
        assert_eq!(inputs.sample().count(), count);
        assert_eq!(inputs.sample().nth(3).unwrap(), &rows[15..20]);
    }
}
