//! What many tokens say together, and how sure that is.
//!
//! Standard errors are those of means of independent tokens. Tokens of a text are not quite independent, so the true ones are
//! somewhat larger; they are what `llama-perplexity` gives, too.

use serde::Serialize;

/// A number with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

/// Mean of `x`. One number has no error that could be told.
pub(super) fn mean(x: &[f64]) -> Estimate {
    let n = x.len() as f64;
    let value = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - value).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    Estimate { value, error: (variance / n).sqrt() }
}

/// `e` to the power of a mean.
pub(super) fn exponential(mean: Estimate) -> Estimate {
    let value = mean.value.exp();
    Estimate { value, error: value * mean.error }
}

/// Root of the mean of squares.
pub(super) fn root_mean_square(x: &[f64]) -> Estimate {
    let squares: Vec<f64> = x.iter().map(|x| x * x).collect();
    let mean = mean(&squares);
    let value = mean.value.sqrt();
    Estimate { value, error: if value > 0.0 { mean.error / (2.0 * value) } else { 0.0 } }
}

/// Share of `true`.
pub(super) fn share(hits: usize, of: usize) -> Estimate {
    let value = hits as f64 / of as f64;
    Estimate { value, error: (value * (1.0 - value) / (of as f64 - 1.0).max(1.0)).sqrt() }
}

/// The number below which a share `q` of `sorted` lies, between two of them by their distances.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let below = sorted[at as usize];
    let above = sorted[(at.ceil() as usize).min(sorted.len() - 1)];
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_surer_the_more_it_rests_on() {
        let few = mean(&[1.0, 3.0]);
        assert_eq!(few, Estimate { value: 2.0, error: 1.0 });
        let many = mean(&[1.0, 3.0].repeat(50));
        assert_eq!(many.value, 2.0);
        assert!(many.error < 0.11);
        assert_eq!(mean(&[4.0]), Estimate { value: 4.0, error: 0.0 });
    }

    #[test]
    fn errors_follow_what_is_done_to_a_mean() {
        let power = exponential(Estimate { value: 2f64.ln(), error: 0.1 });
        assert!((power.value - 2.0).abs() < 1e-12 && (power.error - 0.2).abs() < 1e-12);
        let root = root_mean_square(&[3.0, -3.0, 3.0]);
        assert_eq!(root, Estimate { value: 3.0, error: 0.0 });
        let share = share(3, 5);
        assert!((share.value - 0.6).abs() < 1e-12 && (share.error - (0.24f64 / 4.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let x = [0.0, 1.0, 2.0, 4.0];
        assert_eq!(quantile(&x, 0.0), 0.0);
        assert_eq!(quantile(&x, 0.5), 1.5);
        assert_eq!(quantile(&x, 1.0), 4.0);
        assert_eq!(quantile(&[7.0], 0.999), 7.0);
    }
}
