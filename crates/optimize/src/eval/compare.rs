//! How far apart two distributions over a vocabulary are, from their logits.

/// A distribution's logits with what they have to be divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Normalized<'a> {
    logits: &'a [f32],
    /// Logarithm of the sum of exponentials.
    log_sum: f64,
    /// Index of the largest logit, the first where several are.
    pub(super) top: usize,
}

impl<'a> Normalized<'a> {
    /// `logits`: `(vocab)`, finite.
    pub(super) fn new(logits: &'a [f32]) -> Normalized<'a> {
        let top = top(logits);
        let most = logits[top];
        let log_sum = f64::from(most) + pulp::Arch::new().dispatch(SumExp { logits, most }).ln();
        Normalized { logits, log_sum, top }
    }

    /// Logarithm of the probability of `token`.
    pub(super) fn log_p(&self, token: u32) -> f64 {
        f64::from(self.logits[token as usize]) - self.log_sum
    }

    /// Kullback-Leibler divergence of `other` from this distribution, in nats.
    pub(super) fn divergence(&self, other: &Normalized<'_>) -> f64 {
        let shift = self.log_sum - other.log_sum;
        let dot =
            Divergence { p: self.logits, log_sum: self.log_sum as f32, q: other.logits, shift: shift as f32 };
        // Rounding can take it a little below zero, where no divergence is.
        pulp::Arch::new().dispatch(dot).max(0.0)
    }
}

fn top(logits: &[f32]) -> usize {
    let most = logits.iter().fold(f32::NEG_INFINITY, |most, x| most.max(*x));
    logits.iter().position(|x| *x == most).unwrap_or(0)
}

/// Elements that are summed in single precision before the sum goes on in double.
const BLOCK: usize = 256;
const LANES: usize = 16;

struct SumExp<'a> {
    logits: &'a [f32],
    most: f32,
}

impl pulp::NullaryFnOnce for SumExp<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        let SumExp { logits, most } = self;
        blocks(logits.len(), |i| exp(logits[i] - most))
    }
}

struct Divergence<'a> {
    p: &'a [f32],
    log_sum: f32,
    q: &'a [f32],
    shift: f32,
}

impl pulp::NullaryFnOnce for Divergence<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        let Divergence { p, log_sum, q, shift } = self;
        let q = &q[..p.len()];
        blocks(p.len(), |i| exp(p[i] - log_sum) * (p[i] - q[i] - shift))
    }
}

/// Sum of `f(0..n)`.
#[inline(always)]
fn blocks(n: usize, f: impl Fn(usize) -> f32) -> f64 {
    let mut total = 0.0;
    let mut start = 0;
    while start < n {
        let end = n.min(start + BLOCK);
        let mut lanes = [0.0f32; LANES];
        let whole = start + (end - start) / LANES * LANES;
        let mut at = start;
        while at < whole {
            for lane in 0..LANES {
                lanes[lane] += f(at + lane);
            }
            at += LANES;
        }
        for i in whole..end {
            lanes[0] += f(i);
        }
        total += f64::from(lanes.iter().sum::<f32>());
        start = end;
    }
    total
}

/// `e^x` with a relative error below 3e-7; 0 below -87. Without calls, so that loops over it become vectors.
///
/// `e^x = 2^n · e^r` with `n` the integer nearest `x / ln 2`; `e^r` by the Taylor polynomial of degree 7.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 87.0);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    // ln 2 in two parts: the first has few enough bits that `n` times it is exact.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.0
        + r * (1.0
            + r * (0.5
                + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0))))));
    p * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(seed: u32, n: usize) -> Vec<f32> {
        (0..n as u32)
            .map(|i| {
                ((i.wrapping_mul(2_654_435_761) ^ seed).wrapping_mul(40_503) >> 16) as f32 / 5000.0 - 6.0
            })
            .collect()
    }

    /// The definition, in double precision.
    fn divergence(p: &[f32], q: &[f32]) -> f64 {
        let log = |x: &[f32]| {
            let sum: f64 = x.iter().map(|x| f64::from(*x).exp()).sum();
            x.iter().map(|x| f64::from(*x) - sum.ln()).collect::<Vec<_>>()
        };
        log(p).iter().zip(log(q)).map(|(p, q)| p.exp() * (p - q)).sum()
    }

    #[test]
    fn the_exponential_is_that_of_the_library() {
        for i in -8600..8600 {
            let x = i as f32 / 100.0;
            assert!((f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs() < 3e-7, "{x}");
        }
        assert_eq!(exp(-1000.0), exp(-87.0));
    }

    #[test]
    fn probabilities_and_divergence_follow_their_definitions() {
        for n in [1, 5, 16, 300, 49_152] {
            let (p, q) = (logits(1, n), logits(99, n));
            let (a, b) = (Normalized::new(&p), Normalized::new(&q));
            let total: f64 = (0..n as u32).map(|token| a.log_p(token).exp()).sum();
            assert!((total - 1.0).abs() < 1e-6, "{n}: {total}");
            let expected = divergence(&p, &q);
            assert!((a.divergence(&b) - expected).abs() <= 1e-6 * expected.max(1.0), "{n}");
        }
    }

    #[test]
    fn small_divergences_do_not_drown_in_rounding() {
        let p = logits(1, 49_152);
        let q: Vec<f32> = p.iter().enumerate().map(|(i, x)| x + 0.001 * ((i % 7) as f32 - 3.0)).collect();
        let (found, expected) = (Normalized::new(&p).divergence(&Normalized::new(&q)), divergence(&p, &q));
        assert!((found / expected - 1.0).abs() < 0.01, "{found} instead of {expected}");
        assert!(Normalized::new(&p).divergence(&Normalized::new(&p)) < 1e-9);
    }

    #[test]
    fn the_top_is_the_first_of_the_largest() {
        assert_eq!(Normalized::new(&[0.0, 3.0, 3.0, -1.0]).top, 1);
    }
}
