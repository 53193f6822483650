//! Decides the next token of one request from its logits.
//!
//! Order: log-probabilities of the raw logits, logit bias, repetition, frequency and presence penalties, the caller's
//! hook, bans before `min_tokens`, then greedy choice or temperature, top-k, min-p, top-p and one random draw. Ties go to
//! the lower token id, sums run in a fixed order: the result is a function of logits, parameters and position alone.

use std::collections::HashMap;

use crate::random::uniform;
use crate::request::{Logprobs, SamplingParams};

/// What earlier tokens of a request mean for the next one.
#[derive(Clone, Debug)]
pub struct History {
    /// Occurrences in the generated text.
    generated: HashMap<u32, u32>,
    /// Tokens of the prompt, when the repetition penalty needs them.
    prompt: std::collections::HashSet<u32>,
    tokens: Vec<u32>,
}

impl History {
    /// Nothing generated yet.
    pub fn new(prompt: &[u32], params: &SamplingParams) -> Self {
        let prompt = if params.repetition_penalty == 1.0 { &[] } else { prompt };
        History { generated: HashMap::new(), prompt: prompt.iter().copied().collect(), tokens: Vec::new() }
    }

    /// Appends a generated token.
    pub fn push(&mut self, token: u32) {
        *self.generated.entry(token).or_default() += 1;
        self.tokens.push(token);
    }

    /// Tokens generated so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

/// Log-probabilities of raw logits: the chosen token's and the `top` best ones'.
pub fn logprobs(logits: &[f32], chosen: u32, top: usize) -> Logprobs {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
    let norm = f64::from(max) + sum.ln();
    let logprob = |x: f32| (f64::from(x) - norm) as f32;
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let top = top.min(order.len());
    let best_first = |a: &u32, b: &u32| by_logit(logits, *a, *b);
    if top > 0 && top < order.len() {
        order.select_nth_unstable_by(top - 1, best_first);
    }
    order.truncate(top);
    order.sort_unstable_by(best_first);
    Logprobs {
        chosen: logprob(logits[chosen as usize]),
        top: order.into_iter().map(|token| (token, logprob(logits[token as usize]))).collect(),
    }
}

/// Applies bias and penalties in place.
pub fn adjust(logits: &mut [f32], params: &SamplingParams, history: &History) {
    for (token, bias) in &params.logit_bias {
        if let Some(logit) = logits.get_mut(*token as usize) {
            *logit += bias;
        }
    }
    if params.repetition_penalty != 1.0 {
        let seen =
            history.generated.keys().filter(|token| !history.prompt.contains(token)).chain(&history.prompt);
        for token in seen {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit = if *logit > 0.0 {
                    *logit / params.repetition_penalty
                } else {
                    *logit * params.repetition_penalty
                };
            }
        }
    }
    if params.frequency_penalty != 0.0 || params.presence_penalty != 0.0 {
        for (token, count) in &history.generated {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit -= params.frequency_penalty * *count as f32 + params.presence_penalty;
            }
        }
    }
}

/// Chooses a token from adjusted logits; `position` counts the generated tokens. `None` when no logit is finite, which
/// means that the model's arithmetic broke down (or everything was banned).
pub fn choose(logits: &[f32], params: &SamplingParams, position: u64) -> Option<u32> {
    let best = argmax(logits)?;
    if params.temperature <= 0.0 || params.top_k == 1 {
        return Some(best);
    }
    let max = logits[best as usize];
    let mut candidates: Vec<u32> = (0..logits.len() as u32).collect();
    if params.top_k > 0 && params.top_k < candidates.len() {
        candidates.select_nth_unstable_by(params.top_k - 1, |a, b| by_logit(logits, *a, *b));
        candidates.truncate(params.top_k);
        candidates.sort_unstable();
    }
    // Weights are relative to the best token's, so min-p is a comparison and nothing overflows.
    let weight = |token: u32| (f64::from(logits[token as usize] - max) / f64::from(params.temperature)).exp();
    let mut candidates: Vec<(u32, f64)> = candidates
        .into_iter()
        .map(|token| (token, weight(token)))
        .filter(|(_, weight)| *weight > 0.0)
        .collect();
    if params.min_p > 0.0 {
        candidates.retain(|(_, weight)| *weight >= f64::from(params.min_p));
    }
    if params.top_p < 1.0 {
        keep_top_p(&mut candidates, f64::from(params.top_p), logits);
    }
    let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    let mut left = uniform(params.seed, position) * total;
    for (token, weight) in &candidates {
        left -= weight;
        if left < 0.0 {
            return Some(*token);
        }
    }
    // Rounding may leave a sliver beyond the last candidate.
    candidates.last().map(|(token, _)| *token)
}

/// Keeps the smallest set of best candidates that holds `top_p` of the weight, best first.
fn keep_top_p(candidates: &mut Vec<(u32, f64)>, top_p: f64, logits: &[f32]) {
    let needed = top_p * candidates.iter().map(|(_, weight)| weight).sum::<f64>();
    let best_first = |a: &(u32, f64), b: &(u32, f64)| by_logit(logits, a.0, b.0);
    // The set is nearly always small: sort a growing head instead of the whole vocabulary.
    let mut head = 64.min(candidates.len());
    loop {
        if head < candidates.len() {
            candidates.select_nth_unstable_by(head - 1, best_first);
        }
        candidates[..head].sort_unstable_by(best_first);
        let mut kept = 0.0;
        let cut = candidates[..head].iter().position(|(_, weight)| {
            kept += weight;
            kept >= needed
        });
        match cut {
            Some(last) => return candidates.truncate(last + 1),
            None if head == candidates.len() => return,
            None => head = (head * 8).min(candidates.len()),
        }
    }
}

fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (token, logit) in logits.iter().enumerate() {
        if logit.is_nan() || *logit == f32::INFINITY {
            return None;
        }
        if *logit > best.map_or(f32::NEG_INFINITY, |(_, value)| value) {
            best = Some((token as u32, *logit));
        }
    }
    best.map(|(token, _)| token)
}

fn by_logit(logits: &[f32], a: u32, b: u32) -> std::cmp::Ordering {
    logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn params() -> SamplingParams {
        SamplingParams { temperature: 1.0, ..SamplingParams::default() }
    }

    /// Share of each token over many positions.
    fn shares(logits: &[f32], params: &SamplingParams) -> Vec<f64> {
        let draws = 20_000;
        let mut counts = vec![0; logits.len()];
        for position in 0..draws {
            counts[choose(logits, params, position).unwrap() as usize] += 1;
        }
        counts.iter().map(|n| f64::from(*n) / draws as f64).collect()
    }

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        assert_eq!(choose(&[1.0, 3.0, 3.0], &SamplingParams::default(), 0), Some(1));
    }

    #[test]
    fn broken_logits_choose_nothing() {
        assert_eq!(choose(&[1.0, f32::NAN], &params(), 0), None);
        assert_eq!(choose(&[f32::NEG_INFINITY; 3], &params(), 0), None);
        assert_eq!(choose(&[0.0, f32::INFINITY], &SamplingParams::default(), 0), None);
    }

    #[test]
    fn draws_follow_the_softmax_at_the_temperature() {
        let logits = [0.0, (2.0f32).ln(), (5.0f32).ln()];
        for (share, expected) in shares(&logits, &params()).iter().zip([0.125, 0.25, 0.625]) {
            assert!((share - expected).abs() < 0.015, "{share} {expected}");
        }
        let hot = SamplingParams { temperature: 1e6, ..params() };
        assert!(shares(&logits, &hot).iter().all(|share| (share - 1.0 / 3.0).abs() < 0.015));
        let cold = SamplingParams { temperature: 1e-6, ..params() };
        assert_eq!(shares(&logits, &cold), [0.0, 0.0, 1.0]);
    }

    #[test]
    fn filters_keep_what_they_promise() {
        let logits = [0.1f32.ln(), 0.2f32.ln(), 0.3f32.ln(), 0.4f32.ln()];
        let kept = |params: SamplingParams| {
            shares(&logits, &params).iter().map(|share| *share > 0.0).collect::<Vec<_>>()
        };
        assert_eq!(kept(SamplingParams { top_k: 2, ..params() }), [false, false, true, true]);
        assert_eq!(kept(SamplingParams { top_p: 0.65, ..params() }), [false, false, true, true]);
        assert_eq!(kept(SamplingParams { top_p: 0.75, ..params() }), [false, true, true, true]);
        assert_eq!(kept(SamplingParams { top_p: 1e-9, ..params() }), [false, false, false, true]);
        assert_eq!(kept(SamplingParams { min_p: 0.6, ..params() }), [false, false, true, true]);
    }

    #[test]
    fn penalties_count_what_was_generated() {
        let mut params = SamplingParams { frequency_penalty: 0.5, presence_penalty: 0.25, ..params() };
        let mut history = History::new(&[2], &params);
        history.push(1);
        history.push(1);
        let mut logits = [0.0; 3];
        adjust(&mut logits, &params, &history);
        assert_eq!(logits, [0.0, -1.25, 0.0]);

        params = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::default() };
        let mut history = History::new(&[1, 2], &params);
        history.push(1);
        let mut logits = [4.0, 4.0, -4.0];
        adjust(&mut logits, &params, &history);
        assert_eq!(logits, [4.0, 2.0, -8.0], "each token once, wherever it was seen");
    }

    #[test]
    fn a_bias_moves_one_token_and_ignores_unknown_ones() {
        let params = SamplingParams { logit_bias: vec![(1, -100.0), (99, 5.0)], ..params() };
        let mut logits = [0.0; 3];
        adjust(&mut logits, &params, &History::new(&[], &params));
        assert_eq!(logits, [0.0, -100.0, 0.0]);
    }

    #[test]
    fn logprobs_are_of_the_raw_distribution_best_first() {
        let logits = [0.1f32.ln(), 0.6f32.ln(), 0.3f32.ln()];
        let found = logprobs(&logits, 0, 2);
        assert!((found.chosen - 0.1f32.ln()).abs() < 1e-6);
        assert_eq!(found.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(logprobs(&logits, 0, 0).top, []);
        assert_eq!(logprobs(&logits, 0, 9).top.len(), 3);
    }

    proptest! {
        #[test]
        fn a_choice_is_always_a_kept_token(
            logits in proptest::collection::vec(-20.0f32..20.0, 1..50),
            temperature in 0.0f32..3.0, top_k in 0usize..60, top_p in 0.0f32..=1.0, min_p in 0.0f32..=1.0, seed: u64,
        ) {
            let params = SamplingParams { temperature, top_k, top_p, min_p, seed, ..SamplingParams::default() };
            let token = choose(&logits, &params, 3).unwrap();
            let better = logits.iter().filter(|x| **x > logits[token as usize]).count();
            prop_assert!(top_k == 0 || better < top_k);
            prop_assert_eq!(choose(&logits, &params, 3), Some(token));
        }
    }
}
