//! What one replica can do: a curve of decoding over the size of the batch, a rate of prefill, a KV cache.

use serde::{Deserialize, Serialize};

/// A replica's engine: continuous batching, prompts one after the other.
///
/// One token of every running request takes `base + per_sequence · batch`: reading weights, then work per sequence. Both numbers come from
/// measurements ([`Engine::calibrated`]). The defaults are round numbers of the size that an 8-billion model has on one data-centre GPU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// Milliseconds of one token that do not depend on the batch.
    pub decode_base_ms: f64,
    /// Milliseconds that each running request adds.
    pub decode_per_sequence_ms: f64,
    /// Tokens of prompts a second.
    pub prefill_tokens_per_s: f64,
    /// Tokens that the KV cache holds.
    pub kv_tokens: u64,
    /// Requests that run at a time, at most.
    pub max_batch: u32,
    /// The speed that decoding keeps while a prompt is read, as a share.
    pub decode_while_prefilling: f64,
}

impl Default for Engine {
    fn default() -> Engine {
        Engine {
            decode_base_ms: 15.0,
            decode_per_sequence_ms: 0.2,
            prefill_tokens_per_s: 10_000.0,
            kv_tokens: 200_000,
            max_batch: 64,
            decode_while_prefilling: 0.5,
        }
    }
}

impl Engine {
    /// With the decode curve that fits best (least squares over the time of a token) to measured pairs of requests at a time and tokens
    /// per second of all of them together. At least two different batches are needed.
    pub fn calibrated(self, measured: &[(u32, f64)]) -> Option<Engine> {
        let points: Vec<(f64, f64)> = measured
            .iter()
            .filter(|(batch, rate)| *batch > 0 && *rate > 0.0)
            .map(|(batch, rate)| (f64::from(*batch), f64::from(*batch) * 1000.0 / rate))
            .collect();
        let n = points.len() as f64;
        let mean_x = points.iter().map(|p| p.0).sum::<f64>() / n;
        let mean_y = points.iter().map(|p| p.1).sum::<f64>() / n;
        let spread = points.iter().map(|p| (p.0 - mean_x).powi(2)).sum::<f64>();
        if points.len() < 2 || spread <= 0.0 {
            return None;
        }
        let slope = points.iter().map(|p| (p.0 - mean_x) * (p.1 - mean_y)).sum::<f64>() / spread;
        let slope = slope.max(0.0);
        let base = mean_y - slope * mean_x;
        (base > 0.0).then_some(Engine { decode_base_ms: base, decode_per_sequence_ms: slope, ..self })
    }

    /// Tokens a second that each of `batch` running requests gets.
    pub(crate) fn speed(&self, batch: usize, prefilling: bool) -> f64 {
        let share = if prefilling { self.decode_while_prefilling } else { 1.0 };
        share * 1000.0 / (self.decode_base_ms + self.decode_per_sequence_ms * batch as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_found_again_from_its_measurements() {
        let engine = Engine::default();
        let measured: Vec<(u32, f64)> =
            [1, 4, 16, 64].map(|b| (b, f64::from(b) * engine.speed(b as usize, false))).to_vec();
        let found = Engine { decode_base_ms: 1.0, ..engine }.calibrated(&measured).unwrap();
        assert!((found.decode_base_ms - 15.0).abs() < 1e-6);
        assert!((found.decode_per_sequence_ms - 0.2).abs() < 1e-6);
        assert_eq!(engine.calibrated(&measured[..1]), None);
    }
}
