//! Decides by what the inputs of matrices are divided, and their columns multiplied, before anything is rounded: the model stays
//! the same, and what is hard to round moves to where it is easier.
//!
//! SmoothQuant (Xiao et al. 2022, arXiv:2211.10438) divides by `most|x|^a / most|w|^(1-a)`, so that activations that become bytes
//! are of one size; AWQ (Lin et al. 2023, arXiv:2306.00978) by `mean|x|^a`, so that the columns that matter most are rounded most
//! finely. The exponent is searched, and no scaling at all is among what is tried.

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::inputs::Inputs;

/// Rows of each matrix that a search looks at.
pub(super) const SEARCH_ROWS: usize = 256;

/// Shares of the largest activation that a fixed range is tried with: what lies beyond is cut off.
const RANGES: [f32; 12] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1];

/// How a scheme rounds activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activations {
    /// Not at all.
    Floats,
    /// To bytes with a scale for each row.
    Rows,
    /// To bytes with one scale for all.
    Fixed,
}

/// The matrices that read the same inputs, as far as a search looks at them.
pub(super) struct Matrices {
    /// Some rows of all of them.
    pub(super) rows: Vec<f32>,
    /// Largest magnitude of each column, all rows considered.
    pub(super) most: Vec<f32>,
}

impl Matrices {
    /// Sum of squares of each column of the rows.
    fn squares(&self) -> Vec<f32> {
        let mut squares = vec![0.0; self.most.len()];
        for row in self.rows.chunks_exact(squares.len()) {
            squares.iter_mut().zip(row).for_each(|(sum, w)| *sum += w * w);
        }
        squares
    }
}

/// Which family of scalings is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// SmoothQuant's.
    Extremes,
    /// AWQ's.
    Means,
}

/// The scaling of `family` that leaves the least error in outputs, the same for all inputs with one number in `ties`; `round`
/// replaces a row of weights by what it becomes.
pub(super) fn search(
    family: Family,
    ties: &[usize],
    inputs: &Inputs,
    matrices: &Matrices,
    activations: Activations,
    round: &(dyn Fn(&mut [f32]) + Sync),
) -> Vec<f32> {
    let mut exponents: Vec<f32> = (0..20).map(|step| step as f32 / 20.0).collect();
    if family == Family::Extremes {
        // Zero is no scaling for AWQ, where only activations count, but not here.
        exponents.retain(|exponent| *exponent >= 0.2);
    }
    let scales = Scales::of(family, ties, inputs, matrices);
    let mut tried: Vec<Vec<f32>> = exponents.into_iter().map(|exponent| scales.scaling(exponent)).collect();
    tried.push(vec![1.0; inputs.width()]);
    let (importance, squares) = (inputs.mean_squares(), matrices.squares());
    let errors: Vec<f64> = tried
        .par_iter()
        .map(|scaling| {
            weight_error(&importance, matrices, scaling, round)
                + activation_error(inputs, &squares, scaling, activations)
        })
        .collect();
    let best = (0..tried.len()).min_by(|a, b| errors[*a].total_cmp(&errors[*b])).expect("some were tried");
    tried.swap_remove(best)
}

/// What the scalings of a family are made of, the same for all exponents.
enum Scales {
    /// The largest input of each column, and its largest weight.
    Extremes(Vec<(f32, f32)>),
    /// The mean magnitude of each column's inputs.
    Means(Vec<f32>),
}

impl Scales {
    fn of(family: Family, ties: &[usize], inputs: &Inputs, matrices: &Matrices) -> Scales {
        match family {
            Family::Extremes => {
                let most = tied(ties, inputs.most()).into_iter().zip(tied(ties, &matrices.most));
                Scales::Extremes(most.collect())
            }
            Family::Means => Scales::Means(tied(ties, &inputs.mean_magnitudes())),
        }
    }

    fn scaling(&self, exponent: f32) -> Vec<f32> {
        let raw: Vec<f32> = match self {
            Scales::Extremes(most) => {
                most.iter().map(|(x, w)| x.powf(exponent) / w.powf(1.0 - exponent)).collect()
            }
            Scales::Means(means) => means.iter().map(|x| x.powf(exponent)).collect(),
        };
        let usable = |x: &f32| x.is_finite() && *x > 0.0;
        let logs: Vec<f32> = raw.iter().filter(|x| usable(x)).map(|x| x.ln()).collect();
        let middle = logs.iter().sum::<f32>() / logs.len().max(1) as f32;
        // An input that is never seen, or a column of zeros, is left alone.
        raw.iter().map(|x| if usable(x) { (x.ln() - middle).exp().clamp(1e-4, 1e4) } else { 1.0 }).collect()
    }
}

/// The largest number of each tie, at all of its places.
fn tied(ties: &[usize], numbers: &[f32]) -> Vec<f32> {
    let mut most = vec![0.0f32; ties.iter().max().map_or(0, |last| last + 1)];
    ties.iter().zip(numbers).for_each(|(tie, number)| most[*tie] = most[*tie].max(*number));
    ties.iter().map(|tie| most[*tie]).collect()
}

/// What rounding scaled weights does to outputs: errors of different inputs are taken as independent, so that each counts with the
/// mean square of its input.
fn weight_error(
    importance: &[f32],
    matrices: &Matrices,
    scaling: &[f32],
    round: &(dyn Fn(&mut [f32]) + Sync),
) -> f64 {
    let mut scaled = vec![0.0; scaling.len()];
    let mut error = 0.0;
    for row in matrices.rows.chunks_exact(scaling.len()) {
        scaled.iter_mut().zip(row).zip(scaling).for_each(|((to, w), s)| *to = w * s);
        round(&mut scaled);
        let mut sums = [0.0f32; 16];
        let parts = scaled.chunks(16).zip(row.chunks(16)).zip(scaling.chunks(16)).zip(importance.chunks(16));
        for (((q, w), s), x) in parts {
            for ((((sum, q), w), s), x) in sums.iter_mut().zip(q).zip(w).zip(s).zip(x) {
                *sum += (q / s - w).powi(2) * x;
            }
        }
        error += f64::from(sums.iter().sum::<f32>());
    }
    error
}

/// What rounding scaled activations does to outputs, each input counting with the squares of its column.
fn activation_error(inputs: &Inputs, squares: &[f32], scaling: &[f32], activations: Activations) -> f64 {
    let count = inputs.sample().count().max(1) as f64;
    let of = |step: &dyn Fn(&[f32]) -> f32| {
        let rows = inputs.sample().map(|row| rounding_error(row, scaling, squares, step(row)));
        rows.sum::<f64>() / count
    };
    match activations {
        Activations::Floats => 0.0,
        Activations::Rows => of(&|row| largest(row, scaling) / 127.0),
        Activations::Fixed => {
            let step = fixed_step(inputs, scaling, squares);
            of(&|_| step)
        }
    }
}

fn largest(row: &[f32], scaling: &[f32]) -> f32 {
    row.iter().zip(scaling).fold(0.0, |most, (x, s)| most.max((x / s).abs()))
}

/// Weighted square error of a row of activations that become multiples of `step`.
fn rounding_error(row: &[f32], scaling: &[f32], squares: &[f32], step: f32) -> f64 {
    struct Row<'a> {
        row: &'a [f32],
        scaling: &'a [f32],
        squares: &'a [f32],
        step: f32,
    }
    impl pulp::NullaryFnOnce for Row<'_> {
        type Output = f32;

        #[inline(always)]
        fn call(self) -> f32 {
            let Row { row, scaling, squares, step } = self;
            let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
            let mut sums = [0.0f32; 16];
            for ((row, scaling), squares) in row.chunks(16).zip(scaling.chunks(16)).zip(squares.chunks(16)) {
                for (((sum, x), s), square) in sums.iter_mut().zip(row).zip(scaling).zip(squares) {
                    let code = (x / s * inverse).round_ties_even().clamp(-127.0, 127.0);
                    *sum += (x - code * step * s).powi(2) * square;
                }
            }
            sums.iter().sum()
        }
    }
    f64::from(pulp::Arch::new().dispatch(Row { row, scaling, squares, step }))
}

/// The one scale for all activations, divided by `scaling`: what lies beyond its range may be cut off if that does less harm than
/// coarser steps for all.
pub(super) fn fixed_scale(inputs: &Inputs, matrices: &Matrices, scaling: &[f32]) -> f32 {
    fixed_step(inputs, scaling, &matrices.squares())
}

fn fixed_step(inputs: &Inputs, scaling: &[f32], squares: &[f32]) -> f32 {
    let most = largest(inputs.most(), scaling);
    if most == 0.0 {
        return 1.0;
    }
    let error =
        |step: f32| -> f64 { inputs.sample().map(|row| rounding_error(row, scaling, squares, step)).sum() };
    let steps = RANGES.map(|share| most * share / 127.0);
    let errors = steps.map(error);
    let best = (0..steps.len()).min_by(|a, b| errors[*a].total_cmp(&errors[*b])).expect("ranges are tried");
    steps[best]
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 64;

    /// Inputs of which one is a hundred times as large as the others.
    fn outlier() -> Inputs {
        let mut inputs = Inputs::new(100, false);
        let value = |i: usize| (i * 31 % 17) as f32 / 8.0 - 1.0;
        let rows: Vec<f32> =
            (0..100 * WIDTH).map(|i| value(i) * if i % WIDTH == 5 { 100.0 } else { 1.0 }).collect();
        inputs.add(&rows, WIDTH);
        inputs
    }

    fn matrices() -> Matrices {
        let rows: Vec<f32> = (0..32 * WIDTH).map(|i| (i * 13 % 29) as f32 / 14.0 - 1.0).collect();
        Matrices { rows, most: vec![1.0; WIDTH] }
    }

    fn untied() -> Vec<usize> {
        (0..WIDTH).collect()
    }

    fn to_bits(row: &mut [f32], most: f32) {
        let scale = row.iter().fold(0.0f32, |m, x| m.max(x.abs())) / most;
        row.iter_mut().for_each(|x| *x = (*x / scale).round() * scale);
    }

    #[test]
    fn an_input_that_stands_out_is_divided_by_more() {
        let (inputs, matrices) = (outlier(), matrices());
        let round = |row: &mut [f32]| to_bits(row, 127.0);
        let scaling = search(Family::Extremes, &untied(), &inputs, &matrices, Activations::Rows, &round);
        assert!(scaling[5] > 5.0 * scaling[6], "{scaling:?}");
        let squares = matrices.squares();
        let error = |scaling: &[f32]| activation_error(&inputs, &squares, scaling, Activations::Rows);
        assert!(error(&scaling) < 0.5 * error(&[1.0; WIDTH]));
    }

    #[test]
    fn tied_inputs_are_divided_by_the_same() {
        let (inputs, matrices) = (outlier(), matrices());
        let ties: Vec<usize> = (0..WIDTH).map(|i| i % 16).collect();
        let round = |row: &mut [f32]| to_bits(row, 127.0);
        let scaling = search(Family::Extremes, &ties, &inputs, &matrices, Activations::Rows, &round);
        assert!(scaling[5] > 5.0 * scaling[6], "{scaling:?}");
        assert!((0..WIDTH).all(|i| scaling[i] == scaling[i % 16]), "{scaling:?}");
    }

    #[test]
    fn columns_of_large_inputs_are_rounded_more_finely() {
        let (inputs, matrices) = (outlier(), matrices());
        let round = |row: &mut [f32]| to_bits(row, 7.0);
        let scaling = search(Family::Means, &untied(), &inputs, &matrices, Activations::Floats, &round);
        assert!(scaling[5] > scaling[6], "{scaling:?}");
        let importance = inputs.mean_squares();
        let error = |scaling: &[f32]| weight_error(&importance, &matrices, scaling, &round);
        assert!(error(&scaling) < 0.5 * error(&[1.0; WIDTH]));
    }

    #[test]
    fn a_range_that_one_number_would_spoil_is_cut() {
        let mut inputs = Inputs::new(256, false);
        let mut rows: Vec<f32> = (0..256 * WIDTH).map(|i| (i * 31 % 1009) as f32 / 504.5 - 1.0).collect();
        rows[0] = 1.1;
        inputs.add(&rows, WIDTH);
        let matrices = matrices();
        let scale = fixed_scale(&inputs, &matrices, &[1.0; WIDTH]);
        assert!(scale < 1.09 / 127.0 && scale > 0.9 / 127.0, "{scale}");
        let mut zeros = Inputs::new(1, false);
        zeros.add(&[0.0; WIDTH], WIDTH);
        assert_eq!(fixed_scale(&zeros, &matrices, &[1.0; WIDTH]), 1.0);
    }
}
