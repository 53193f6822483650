//! Decides how sums of products are computed here: one vector against four, so that each of its elements is loaded once.
//!
//! Partial sums lie in lanes, so that loops become vectors; the order of additions does not depend on the machine or on threads.

const LANES: usize = 16;

/// Rows of a matrix that are read in four places at once.
pub(super) const ROWS: usize = 4;

/// `[Σ a·b for b in rows]`; all are equally long.
#[inline(always)]
pub(super) fn dots(a: &[f32], rows: [&[f32]; ROWS]) -> [f32; ROWS] {
    let mut sums = [[0.0f32; LANES]; ROWS];
    let whole = a.len() / LANES * LANES;
    let rows = rows.map(|row| &row[..a.len()]);
    let mut at = 0;
    while at < whole {
        for (sums, row) in sums.iter_mut().zip(rows) {
            let (a, b) = (&a[at..at + LANES], &row[at..at + LANES]);
            for lane in 0..LANES {
                sums[lane] = a[lane].mul_add(b[lane], sums[lane]);
            }
        }
        at += LANES;
    }
    let mut totals = sums.map(|sums| sums.iter().sum::<f32>());
    for (total, row) in totals.iter_mut().zip(rows) {
        for (a, b) in a[whole..].iter().zip(&row[whole..]) {
            *total = a.mul_add(*b, *total);
        }
    }
    totals
}

/// `to[i] -= Σ_c a[c]·row(i)[c]`.
pub(super) fn subtract<'a>(to: &mut [f32], a: &[f32], row: impl Fn(usize) -> &'a [f32]) {
    each(to, a, row, |to, sum| *to -= sum);
}

/// `to[i] += Σ_c a[c]·row(i)[c]`.
pub(super) fn add<'a>(to: &mut [f32], a: &[f32], row: impl Fn(usize) -> &'a [f32]) {
    each(to, a, row, |to, sum| *to += sum);
}

fn each<'a>(to: &mut [f32], a: &[f32], row: impl Fn(usize) -> &'a [f32], store: impl Fn(&mut f32, f32)) {
    struct Each<'x, R, S> {
        to: &'x mut [f32],
        a: &'x [f32],
        row: R,
        store: S,
    }
    impl<'a, R: Fn(usize) -> &'a [f32], S: Fn(&mut f32, f32)> pulp::NullaryFnOnce for Each<'_, R, S> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Each { to, a, row, store } = self;
            let last = to.len().saturating_sub(1);
            for (group, to) in to.chunks_mut(ROWS).enumerate() {
                // What is behind the end is computed for nothing, from a row that is there.
                let sums = dots(a, std::array::from_fn(|i| row((group * ROWS + i).min(last))));
                to.iter_mut().zip(sums).for_each(|(to, sum)| store(to, sum));
            }
        }
    }
    pulp::Arch::new().dispatch(Each { to, a, row, store });
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
