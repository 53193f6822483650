//! Decides the inverse frequencies of rotary embeddings under each scaling scheme.
//!
//! Formulas: RoPE (arXiv 2104.09864), linear position interpolation (arXiv 2306.15595), YaRN
//! (arXiv 2309.00071), LongRoPE (arXiv 2402.13753), and Llama 3.1's scaling as Meta published it with the
//! model. Values are kept in `f64`; the references compute them in `f32`.

use std::f64::consts::PI;

use crate::config::RopeConfig;

/// How frequencies are stretched for contexts longer than those of pretraining.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scaling {
    /// Not at all.
    None,
    /// All frequencies divided by `factor`.
    Linear { factor: f64 },
    /// Low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_context: f64 },
    /// "Yet another RoPE extension": a ramp over dimensions, and an attention temperature.
    Yarn(Yarn),
    /// Each frequency divided by its own factor (LongRoPE; `rope_freqs.weight` of GGUF).
    PerPair { factors: Vec<f64>, amplitude: f64 },
}

/// Parameters of YaRN.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Yarn {
    pub(crate) factor: f64,
    pub(crate) original_context: f64,
    /// Rotations over the original context above which a dimension is kept.
    pub(crate) beta_fast: f64,
    /// Rotations below which a dimension is fully interpolated.
    pub(crate) beta_slow: f64,
    /// Whether the ends of the ramp are rounded to whole dimensions.
    pub(crate) truncate: bool,
    /// Multiplies sine and cosine.
    pub(crate) amplitude: f64,
}

/// The temperature that the YaRN paper suggests: `0.1 * mscale * ln(factor) + 1`.
pub(crate) fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// The amplitude of LongRoPE for a context stretched by `factor`.
pub(crate) fn longrope_amplitude(factor: f64, original_context: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original_context.ln()).sqrt() }
}

/// The rotary embedding of `dim` leading elements (even) with wavelength base `theta`.
///
/// `PerPair` must hold `dim / 2` factors; readers check it.
pub(crate) fn rope(dim: usize, theta: f64, scaling: &Scaling) -> RopeConfig {
    let plain: Vec<f64> = (0..dim / 2).map(|i| theta.powf(-((2 * i) as f64) / dim as f64)).collect();
    let (inv_freq, amplitude) = match scaling {
        Scaling::None => (plain, 1.0),
        Scaling::Linear { factor } => (plain.iter().map(|f| f / factor).collect(), 1.0),
        Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let scale = |f: &f64| {
                let wavelength = 2.0 * PI / f;
                if wavelength < original_context / high_freq_factor {
                    *f
                } else if wavelength > original_context / low_freq_factor {
                    f / factor
                } else {
                    let smooth = (original_context / wavelength - low_freq_factor)
                        / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            };
            (plain.iter().map(scale).collect(), 1.0)
        }
        Scaling::Yarn(yarn) => (yarn_frequencies(dim, theta, &plain, yarn), yarn.amplitude),
        Scaling::PerPair { factors, amplitude } => {
            (plain.iter().zip(factors).map(|(f, factor)| f / factor).collect(), *amplitude)
        }
    };
    RopeConfig { dim, inv_freq, amplitude: amplitude as f32 }
}

impl RopeConfig {
    /// Whether every number can be computed with; parameters at the edges of their ranges overflow.
    pub(crate) fn is_finite(&self) -> bool {
        let usable = |f: &f64| *f > 0.0 && f.is_finite();
        self.inv_freq.iter().all(usable) && self.amplitude > 0.0 && self.amplitude.is_finite()
    }
}

fn yarn_frequencies(dim: usize, theta: f64, plain: &[f64], yarn: &Yarn) -> Vec<f64> {
    // The dimension that makes `rotations` turns over the original context.
    let dimension_of = |rotations: f64| {
        dim as f64 * (yarn.original_context / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln())
    };
    let (mut low, mut high) = (dimension_of(yarn.beta_fast), dimension_of(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let low = low.max(0.0);
    let high = high.min(dim as f64 - 1.0);
    // The reference widens an empty ramp so that it does not divide by zero.
    let width = if high == low { 0.001 } else { high - low };
    let ramp = |i: usize| ((i as f64 - low) / width).clamp(0.0, 1.0);
    plain.iter().enumerate().map(|(i, f)| f / yarn.factor * ramp(i) + f * (1.0 - ramp(i))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_geometrically() {
        let rope = rope(4, 10_000.0, &Scaling::None);
        assert_eq!(rope.inv_freq, [1.0, 0.01]);
        assert_eq!(rope.amplitude, 1.0);
    }

    #[test]
    fn llama3_keeps_fast_pairs_and_divides_slow_ones() {
        let scaling = Scaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
        let plain = rope(128, 500_000.0, &Scaling::None).inv_freq;
        let scaled = rope(128, 500_000.0, &scaling).inv_freq;
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[63], plain[63] / 8.0);
        assert!(scaled.iter().zip(&plain).all(|(s, p)| (p / 8.0..=*p).contains(s)));
    }

    #[test]
    fn yarn_interpolates_only_slow_pairs() {
        let yarn = Yarn {
            factor: 4.0,
            original_context: 4096.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            amplitude: yarn_mscale(4.0, 1.0),
        };
        let plain = rope(64, 10_000.0, &Scaling::None).inv_freq;
        let scaled = rope(64, 10_000.0, &Scaling::Yarn(yarn));
        assert_eq!(scaled.inv_freq[0], plain[0]);
        assert_eq!(scaled.inv_freq[31], plain[31] / 4.0);
        assert!((scaled.amplitude - 1.138_629_4).abs() < 1e-6);
    }
}
