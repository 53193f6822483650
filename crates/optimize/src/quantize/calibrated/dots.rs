//! Decides how sums of products are computed here: one vector against four, so that each of its elements is loaded once.

use pulp::{Arch, Simd, WithSimd};

/// Rows that a vector is multiplied with at once.
const ROWS: usize = 4;

/// `to[i] += Σ_c a[c]·row(i)[c]`; every row is as long as `a`.
pub(super) fn add<'a>(to: &mut [f32], a: &[f32], row: impl Fn(usize) -> &'a [f32]) {
    Arch::new().dispatch(Each { to, a, row, sign: 1.0 });
}

/// `to[i] -= Σ_c a[c]·row(i)[c]`; every row is as long as `a`.
pub(super) fn subtract<'a>(to: &mut [f32], a: &[f32], row: impl Fn(usize) -> &'a [f32]) {
    Arch::new().dispatch(Each { to, a, row, sign: -1.0 });
}

struct Each<'x, R> {
    to: &'x mut [f32],
    a: &'x [f32],
    row: R,
    sign: f32,
}

impl<'a, R: Fn(usize) -> &'a [f32]> WithSimd for Each<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Each { to, a, row, sign } = self;
        let last = to.len().saturating_sub(1);
        for (group, to) in to.chunks_mut(ROWS).enumerate() {
            // What is behind the end is computed for nothing, from a row that is there.
            let first = group * ROWS;
            let rows =
                [row(first), row(last.min(first + 1)), row(last.min(first + 2)), row(last.min(first + 3))];
            for (to, sum) in to.iter_mut().zip(dots(simd, a, rows)) {
                *to += sign * sum;
            }
        }
    }
}

// Closures would not be compiled for the instruction set: no `map` and no `from_fn` here.
#[inline(always)]
fn dots<S: Simd>(simd: S, a: &[f32], rows: [&[f32]; ROWS]) -> [f32; ROWS] {
    let (vectors, rest) = S::as_simd_f32s(a);
    let [r0, r1, r2, r3] = rows;
    let (r0, rest0) = S::as_simd_f32s(&r0[..a.len()]);
    let (r1, rest1) = S::as_simd_f32s(&r1[..a.len()]);
    let (r2, rest2) = S::as_simd_f32s(&r2[..a.len()]);
    let (r3, rest3) = S::as_simd_f32s(&r3[..a.len()]);
    let zero = simd.splat_f32s(0.0);
    let [mut s0, mut s1, mut s2, mut s3] = [zero; ROWS];
    for ((((x, y0), y1), y2), y3) in vectors.iter().zip(r0).zip(r1).zip(r2).zip(r3) {
        s0 = simd.mul_add_f32s(*x, *y0, s0);
        s1 = simd.mul_add_f32s(*x, *y1, s1);
        s2 = simd.mul_add_f32s(*x, *y2, s2);
        s3 = simd.mul_add_f32s(*x, *y3, s3);
    }
    let mut sums = [
        simd.reduce_sum_f32s(s0),
        simd.reduce_sum_f32s(s1),
        simd.reduce_sum_f32s(s2),
        simd.reduce_sum_f32s(s3),
    ];
    for (sum, row) in sums.iter_mut().zip([rest0, rest1, rest2, rest3]) {
        for (x, y) in rest.iter().zip(row) {
            *sum += x * y;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_a_simple_loop() {
        for len in [0, 1, 15, 16, 17, 100] {
            let rows: Vec<Vec<f32>> =
                (0..7).map(|r| (0..len).map(|i| ((i * 7 + r * 3) % 11) as f32 - 5.0).collect()).collect();
            let a: Vec<f32> = (0..len).map(|i| (i % 5) as f32).collect();
            let mut to = vec![1.0; 7];
            add(&mut to, &a, |i| &rows[i]);
            for (row, to) in rows.iter().zip(&to) {
                // Small integers: every order of additions is exact.
                assert_eq!(*to, 1.0 + row.iter().zip(&a).map(|(x, y)| x * y).sum::<f32>());
            }
            subtract(&mut to, &a, |i| &rows[i]);
            assert_eq!(to, [1.0; 7]);
        }
    }
}
