//! Decides whether a model is good enough to be kept.

use std::str::FromStr;

use wharf_optimize::eval::{Comparison, Metrics};

/// Bounds on how much worse a model may be than the one it was made from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Gate {
    /// Largest increase of perplexity, relative.
    pub(crate) perplexity: Option<Share>,
    /// Largest mean Kullback-Leibler divergence, nats.
    pub(crate) divergence: Option<f64>,
}

/// A share, written as `2%` or `0.02`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Share(pub(crate) f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let (number, unit) = match text.strip_suffix('%') {
            Some(number) => (number, 0.01),
            None => (text, 1.0),
        };
        let number = number.trim().parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0);
        let number = number.ok_or("expected a share that is not negative, as 2% or 0.02")?;
        Ok(Share(number * unit))
    }
}

impl Gate {
    /// Whether there is any bound.
    pub(crate) fn is_open(&self) -> bool {
        *self == Gate::default()
    }

    /// What is wrong with a model of these `metrics`; nothing when it may be kept.
    pub(crate) fn refuse(&self, metrics: &Metrics) -> Vec<String> {
        let Some(Comparison { perplexity_ratio, kl_mean, .. }) = &metrics.comparison else {
            return Vec::new();
        };
        let mut wrong = Vec::new();
        if let Some(Share(most)) = self.perplexity {
            let increase = perplexity_ratio.value - 1.0;
            if increase > most {
                wrong.push(format!(
                    "perplexity rises by {:.2} %, more than {:.2} %",
                    100.0 * increase,
                    100.0 * most
                ));
            }
        }
        if let Some(most) = self.divergence
            && kl_mean.value > most
        {
            wrong.push(format!("KL divergence is {:.5}, more than {most}", kl_mean.value));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use wharf_optimize::eval::Estimate;

    use super::*;

    fn metrics(ratio: f64, divergence: f64) -> Metrics {
        let exact = |value| Estimate { value, error: 0.0 };
        Metrics {
            tokens: 1,
            perplexity: exact(1.0),
            comparison: Some(Comparison {
                reference_perplexity: exact(1.0),
                perplexity_ratio: exact(ratio),
                kl_mean: exact(divergence),
                kl_median: 0.0,
                kl_p999: 0.0,
                kl_max: 0.0,
                same_top: exact(1.0),
                p_change_mean: exact(0.0),
                p_change_rms: exact(0.0),
            }),
        }
    }

    #[test]
    fn shares_are_numbers_or_percentages() {
        assert_eq!("2%".parse(), Ok(Share(0.02)));
        assert_eq!("0.5".parse(), Ok(Share(0.5)));
        for bad in ["", "%", "-1%", "two", "nan", "inf"] {
            assert!(bad.parse::<Share>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_what_exceeds_its_bound_is_refused() {
        let gate = Gate { perplexity: Some(Share(0.02)), divergence: Some(0.01) };
        assert!(gate.refuse(&metrics(1.019, 0.009)).is_empty());
        assert!(gate.refuse(&metrics(0.9, 0.0)).is_empty());
        let wrong = gate.refuse(&metrics(1.05, 0.02));
        assert_eq!(wrong.len(), 2);
        assert!(wrong[0].contains("5.00 %"), "{wrong:?}");
        assert!(Gate::default().is_open() && !gate.is_open());
    }
}
