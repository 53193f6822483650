//! What an evaluation says, for people and for programs.

use std::fmt;

use serde::Serialize;

use super::score::TokenScore;
use super::stats::{Estimate, exponential, mean, quantile, root_mean_square, share};

/// How good one model is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metrics {
    /// Tokens that were judged.
    pub tokens: usize,
    /// `e` to the mean negative logarithm of a token's probability.
    pub perplexity: Estimate,
    /// Beside the reference, if there was one.
    pub comparison: Option<Comparison>,
}

/// How far a model is from its reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Perplexity of the reference.
    pub reference_perplexity: Estimate,
    /// Perplexity divided by the reference's; its error takes into account that both read the same tokens.
    pub perplexity_ratio: Estimate,
    /// Kullback-Leibler divergence from the reference, nats: mean over tokens.
    pub kl_mean: Estimate,
    /// Half of the tokens diverge less.
    pub kl_median: f64,
    /// 99.9 % of the tokens diverge less.
    pub kl_p999: f64,
    /// The largest divergence.
    pub kl_max: f64,
    /// Share of tokens whose likeliest successor is the reference's.
    pub same_top: Estimate,
    /// Mean change of the right token's probability.
    pub p_change_mean: Estimate,
    /// Root mean square of that change.
    pub p_change_rms: Estimate,
}

impl Metrics {
    /// `scores` are not empty.
    pub(super) fn new(scores: &[TokenScore]) -> Metrics {
        let nll: Vec<f64> = scores.iter().map(|score| -score.log_p).collect();
        Metrics {
            tokens: scores.len(),
            perplexity: exponential(mean(&nll)),
            comparison: Comparison::new(scores),
        }
    }
}

impl Comparison {
    fn new(scores: &[TokenScore]) -> Option<Comparison> {
        let besides: Vec<_> = scores.iter().map(|score| score.beside).collect::<Option<_>>()?;
        let collect = |f: &dyn Fn(usize) -> f64| (0..scores.len()).map(f).collect::<Vec<f64>>();
        let change = collect(&|i| scores[i].log_p.exp() - besides[i].log_p.exp());
        let mut divergence = collect(&|i| besides[i].divergence);
        let kl_mean = mean(&divergence);
        divergence.sort_by(f64::total_cmp);
        Some(Comparison {
            reference_perplexity: exponential(mean(&collect(&|i| -besides[i].log_p))),
            perplexity_ratio: exponential(mean(&collect(&|i| besides[i].log_p - scores[i].log_p))),
            kl_mean,
            kl_median: quantile(&divergence, 0.5),
            kl_p999: quantile(&divergence, 0.999),
            kl_max: divergence[divergence.len() - 1],
            same_top: share(besides.iter().filter(|beside| beside.same_top).count(), scores.len()),
            p_change_mean: mean(&change),
            p_change_rms: root_mean_square(&change),
        })
    }
}

/// One or several models on one text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvalReport {
    /// The text.
    pub text: String,
    /// Tokens of a window.
    pub window: usize,
    /// Windows.
    pub windows: usize,
    /// The model that the others are compared with.
    pub reference: Option<String>,
    /// The models with what was found, in the order in which they were given.
    pub models: Vec<Judged>,
}

/// One model of a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// Its path.
    pub model: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// Tokens of the text that went through it in a second, the reference's time included.
    pub tokens_per_second: f64,
    /// How good it is.
    #[serde(flatten)]
    pub metrics: Metrics,
}

impl fmt::Display for EvalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EvalReport { text, window, windows, reference, models } = self;
        write!(f, "{text}: {windows} windows of {window} tokens")?;
        match reference {
            Some(reference) => writeln!(f, ", beside {reference}")?,
            None => writeln!(f)?,
        }
        for Judged { model, bytes, tokens_per_second, metrics } in models {
            writeln!(f)?;
            writeln!(f, "{model} ({:.1} MB)", *bytes as f64 / 1e6)?;
            let percent = |x: Estimate| format!("{:.3} ± {:.3} %", 100.0 * x.value, 100.0 * x.error);
            let line =
                |f: &mut fmt::Formatter<'_>, name: &str, value: String| writeln!(f, "  {name:<26} {value}");
            line(
                f,
                "perplexity",
                format!("{:.4} ± {:.4}", metrics.perplexity.value, metrics.perplexity.error),
            )?;
            if let Some(c) = &metrics.comparison {
                let estimate = |x: Estimate| format!("{:.6} ± {:.6}", x.value, x.error);
                line(
                    f,
                    "of the reference",
                    format!("{:.4} ± {:.4}", c.reference_perplexity.value, c.reference_perplexity.error),
                )?;
                line(f, "ratio", estimate(c.perplexity_ratio))?;
                line(f, "KL divergence, mean", estimate(c.kl_mean))?;
                line(f, "KL divergence, median", format!("{:.6}", c.kl_median))?;
                line(f, "KL divergence, 99.9 %", format!("{:.6}", c.kl_p999))?;
                line(f, "same likeliest token", percent(c.same_top))?;
                line(f, "change of p, mean", percent(c.p_change_mean))?;
                line(f, "change of p, RMS", percent(c.p_change_rms))?;
            }
            line(f, "judged", format!("{} tokens, {tokens_per_second:.0} tokens/s read", metrics.tokens))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::score::Beside;
    use super::*;

    fn score(p: f64, reference: f64, divergence: f64, same_top: bool) -> TokenScore {
        TokenScore { log_p: p.ln(), beside: Some(Beside { log_p: reference.ln(), divergence, same_top }) }
    }

    #[test]
    fn metrics_follow_from_the_tokens() {
        let scores = [score(0.5, 0.5, 0.0, true), score(0.25, 0.5, 0.3, false)];
        let metrics = Metrics::new(&scores);
        assert!((metrics.perplexity.value - 8f64.sqrt()).abs() < 1e-12);
        let c = metrics.comparison.unwrap();
        assert!((c.reference_perplexity.value - 2.0).abs() < 1e-12);
        assert_eq!(c.reference_perplexity.error, 0.0);
        assert!((c.perplexity_ratio.value - 2f64.sqrt()).abs() < 1e-12);
        assert!((c.kl_mean.value - 0.15).abs() < 1e-12);
        assert_eq!((c.kl_median, c.kl_max), (0.15, 0.3));
        assert_eq!(c.same_top.value, 0.5);
        assert!((c.p_change_mean.value + 0.125).abs() < 1e-12);
        assert!((c.p_change_rms.value - (0.0625f64 / 2.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn without_a_reference_there_is_nothing_to_compare() {
        let metrics = Metrics::new(&[TokenScore { log_p: -1.0, beside: None }]);
        assert!((metrics.perplexity.value - 1f64.exp()).abs() < 1e-12);
        assert_eq!(metrics.comparison, None);
    }
}
