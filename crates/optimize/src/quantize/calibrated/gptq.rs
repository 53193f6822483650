//! Decides how the rest of a row makes up for each weight that was rounded (GPTQ).
//!
//! What a row's errors `d` do to outputs is `dᵀ H d` with `H` the sums of products of the inputs. With `H = Lᵀ L` and `L` lower
//! triangular, that is the sum of squares of `L d`, whose row `j` has no errors behind `j`: rounding inputs in order, the target of
//! input `j` is `w[j] + Σ_{c<j} L[j,c]/L[j,j] · d[c]`, which would make row `j` zero. This is the nearest-plane view of GPTQ
//! (Frantar et al. 2022, arXiv:2210.17323; Chen et al. 2025, arXiv:2507.18553), and needs no inverse. Inputs of larger squares come
//! first ("act order"), each with the scale of its group as it lies, so that files need not tell the order.

use rayon::iter::{IndexedParallelIterator as _, ParallelIterator as _};
use rayon::slice::ParallelSliceMut as _;

use super::dots;

/// Inputs that are rounded between two sums over all before them.
const BLOCK: usize = 64;

/// Share of the mean square that is added to every square: text never shows all that inputs can be.
const DAMP: f32 = 0.01;

/// How errors of the inputs rounded so far move the target of each input, for all rows of a matrix.
#[derive(Clone, Debug)]
pub(crate) struct Factor {
    n: usize,
    /// Which input is rounded when.
    order: Vec<usize>,
    /// `L[j,c]/L[j,j]` for `c < j`, `(n, n)`, in that order.
    shares: Vec<f32>,
}

impl Factor {
    /// From sums of products `(n, n)`, of which the lower triangle is read.
    pub(super) fn new(products: &[f32], n: usize) -> Factor {
        assert_eq!(products.len(), n * n, "products of every two inputs");
        let square = |i: usize| products[i * n + i];
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| square(*b).total_cmp(&square(*a)));
        let damp = DAMP * (0..n).map(square).sum::<f32>() / n as f32;
        // An input that is always zero matters to nothing; any positive number keeps it apart from the others.
        let damp = if damp > 0.0 { damp } else { 1.0 };
        // In reverse order the usual factor `C Cᵀ` is `Lᵀ L`, mirrored at the other diagonal.
        let mut c = vec![0.0f32; n * n];
        c.par_chunks_mut(n).enumerate().for_each(|(row, to)| {
            let i = order[n - 1 - row];
            for (column, to) in to[..=row].iter_mut().enumerate() {
                let j = order[n - 1 - column];
                *to = products[i.max(j) * n + i.min(j)];
            }
            to[row] += damp;
        });
        cholesky(&mut c, n);
        for row in 0..n {
            for column in 0..=row {
                let (a, b) = (n - 1 - column, n - 1 - row);
                // Each pair is swapped once.
                if (row, column) < (a, b) {
                    c.swap(row * n + column, a * n + b);
                }
            }
        }
        c.par_chunks_mut(n).enumerate().for_each(|(j, row)| {
            let inverse = 1.0 / row[j];
            row[..j].iter_mut().for_each(|x| *x *= inverse);
        });
        Factor { n, order, shares: c }
    }

    /// Rounds `rows` of weights `(rows, n)` in place; `round(row, input, target)` says what a weight becomes.
    pub(crate) fn round(&self, rows: &mut [f32], round: impl Fn(usize, usize, f32) -> f32) {
        let n = self.n;
        let count = rows.len() / n;
        // Errors in the order of rounding.
        let mut errors = vec![0.0f32; rows.len()];
        let mut moved = [0.0f32; BLOCK];
        for first in (0..n).step_by(BLOCK) {
            let block = first..n.min(first + BLOCK);
            for row in 0..count {
                let (weights, errors) = (&mut rows[row * n..][..n], &mut errors[row * n..][..n]);
                let moved = &mut moved[..block.len()];
                moved.fill(0.0);
                dots::add(moved, &errors[..first], |i| &self.shares[(first + i) * n..][..first]);
                for j in block.clone() {
                    let shares = &self.shares[j * n + first..j * n + j];
                    let near: f32 = shares.iter().zip(&errors[first..j]).map(|(share, d)| share * d).sum();
                    let input = self.order[j];
                    let weight = weights[input];
                    let rounded = round(row, input, weight + moved[j - first] + near);
                    errors[j] = weight - rounded;
                    weights[input] = rounded;
                }
            }
        }
    }
}

/// The lower triangular `C` with `C Cᵀ` the symmetric matrix whose lower triangle `a: (n, n)` has, in its place. What rounding
/// errors would make of a square that is nearly zero is kept positive.
fn cholesky(a: &mut [f32], n: usize) {
    let most = (0..n).map(|i| a[i * n + i]).fold(0.0, f32::max);
    let least = (f32::EPSILON * most).max(f32::MIN_POSITIVE);
    for first in (0..n).step_by(BLOCK) {
        let end = n.min(first + BLOCK);
        let (block, below) = a[first * n..].split_at_mut((end - first) * n);
        // What the columns before have already explained.
        let earlier: Vec<f32> = block.chunks(n).flat_map(|row| row[..first].to_vec()).collect();
        let earlier_row = |i: usize| &earlier[i * first..][..first];
        block.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
            let (before, here) = row.split_at_mut(first);
            dots::subtract(&mut here[..=i], before, earlier_row);
        });
        let size = end - first;
        let mut corner = vec![0.0f32; size * size];
        for i in 0..size {
            for j in 0..=i {
                let inner: f32 = (0..j).map(|k| corner[i * size + k] * corner[j * size + k]).sum();
                let left = block[i * n + first + j] - inner;
                corner[i * size + j] =
                    if i == j { left.max(least).sqrt() } else { left / corner[j * size + j] };
            }
        }
        for (i, row) in block.chunks_mut(n).enumerate() {
            row[first..=first + i].copy_from_slice(&corner[i * size..=i * size + i]);
        }
        below.par_chunks_mut(n).with_min_len(4).for_each(|row| {
            let (before, here) = row.split_at_mut(first);
            let here = &mut here[..size];
            dots::subtract(here, before, earlier_row);
            for j in 0..size {
                let inner: f32 = (0..j).map(|k| here[k] * corner[j * size + k]).sum();
                here[j] = (here[j] - inner) / corner[j * size + j];
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of products of `rows` correlated inputs.
    fn products(n: usize) -> Vec<f32> {
        let mut state = 7u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let mut sums = vec![0.0f32; n * n];
        for _ in 0..4 * n {
            let common = random();
            let x: Vec<f32> = (0..n).map(|i| random() + common * (4.0 + i as f32 / n as f32)).collect();
            for i in 0..n {
                for j in 0..n {
                    sums[i * n + j] += x[i] * x[j];
                }
            }
        }
        sums
    }

    #[test]
    fn the_factor_multiplied_is_the_matrix() {
        for n in [1, 7, BLOCK, 2 * BLOCK + 9] {
            let a = products(n);
            let mut c = a.clone();
            cholesky(&mut c, n);
            for i in 0..n {
                for j in 0..=i {
                    let sum: f32 = (0..=j).map(|k| c[i * n + k] * c[j * n + k]).sum();
                    assert!((sum - a[i * n + j]).abs() < 1e-3 * a[i * n + i], "{n}: {i} {j}");
                }
            }
        }
    }

    #[test]
    fn later_inputs_make_up_for_earlier_errors() {
        let n = 2 * BLOCK + 20;
        let h = products(n);
        let weights: Vec<f32> = (0..3 * n).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let nearest = |x: f32| (x * 4.0).round() / 4.0;
        let damage = |rounded: &[f32]| -> f32 {
            let errors: Vec<f32> = weights.iter().zip(rounded).map(|(w, r)| w - r).collect();
            errors
                .chunks(n)
                .map(|d| (0..n).map(|i| (0..n).map(|j| d[i] * h[i * n + j] * d[j]).sum::<f32>()).sum::<f32>())
                .sum()
        };
        let plain: Vec<f32> = weights.iter().map(|w| nearest(*w)).collect();
        let mut rounded = weights.clone();
        Factor::new(&h, n).round(&mut rounded, |_, _, target| nearest(target));
        assert!(rounded.iter().all(|x| nearest(*x) == *x));
        assert!(damage(&rounded) < 0.7 * damage(&plain), "{} {}", damage(&rounded), damage(&plain));
    }

    #[test]
    fn inputs_that_are_always_zero_do_no_harm() {
        let n = 40;
        let mut h = products(n);
        for i in 0..n {
            (h[i * n + 3], h[3 * n + i]) = (0.0, 0.0);
        }
        let mut rounded: Vec<f32> = (0..n).map(|i| i as f32 / 7.0).collect();
        Factor::new(&h, n).round(&mut rounded, |_, _, target| target.round());
        assert!(rounded.iter().all(|x| x.is_finite()));
        let mut zero = vec![0.3; n];
        Factor::new(&vec![0.0; n * n], n).round(&mut zero, |_, _, target| target.round());
        assert_eq!(zero, [0.0; 40]);
    }
}
