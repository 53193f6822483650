//! Decides in which passes a text goes through a model, and what is kept of the logits: a few numbers for each judged token.

use std::sync::atomic::{AtomicBool, Ordering};

use wharf_engine::{BLOCK_TOKENS, Backend, BackendError, BlockId, Chunk, Logits, LogitsFor};

use super::compare::Normalized;
use super::report::Metrics;
use super::windows::Windows;

/// Rows of logits that are looked at together: a pass of fewer tokens is slower, logits of more take memory.
const ROWS: usize = 128;

/// Why an evaluation did not end.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The models do not speak of the same tokens.
    #[error(
        "the model has {model} tokens in its vocabulary, the reference {reference}; only models with one vocabulary can be compared"
    )]
    Vocabulary {
        /// Tokens of the model.
        model: usize,
        /// Tokens of the reference.
        reference: usize,
    },
    /// A logit is not a number.
    #[error("the {who} gives logits that are not numbers in window {window}: its weights are damaged")]
    NotFinite {
        /// Which of the two.
        who: &'static str,
        /// The window, from 0.
        window: usize,
    },
    /// A pass failed.
    #[error("failed to compute window {window}")]
    Backend {
        /// The window, from 0.
        window: usize,
        /// The backend's error.
        source: BackendError,
    },
    /// Somebody asked to stop.
    #[error("stopped")]
    Stopped,
}

/// What is known of a judged token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct TokenScore {
    /// Logarithm of its probability.
    pub(super) log_p: f64,
    /// Beside the reference.
    pub(super) beside: Option<Beside>,
}

/// A token beside the reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Beside {
    /// Logarithm of its probability in the reference.
    pub(super) log_p: f64,
    /// Divergence of the model's distribution from the reference's, nats.
    pub(super) divergence: f64,
    /// Whether both think the same token likeliest.
    pub(super) same_top: bool,
}

/// How far an evaluation is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Windows judged.
    pub done: usize,
    /// Windows to judge.
    pub total: usize,
    /// Perplexity so far.
    pub perplexity: f64,
}

/// What judges a model: windows of a text, threads to compare on, a flag to stop by.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// The text.
    pub windows: &'a Windows,
    /// Threads that compare distributions.
    pub threads: usize,
    /// Set by others to stop.
    pub stop: &'a AtomicBool,
}

/// Judges `model`, beside `reference` if there is one. Both hold at least a window of KV.
///
/// # Errors
/// When the vocabularies differ, a pass fails, logits are not finite, or somebody stopped it.
pub fn evaluate(
    model: &mut dyn Backend,
    mut reference: Option<&mut dyn Backend>,
    judge: Judge<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Metrics, EvalError> {
    if let Some(reference) = &reference
        && reference.vocab_size() != model.vocab_size()
    {
        return Err(EvalError::Vocabulary { model: model.vocab_size(), reference: reference.vocab_size() });
    }
    let total = judge.windows.iter().len();
    let mut scores = Vec::with_capacity(judge.windows.judged());
    let (mut logits, mut reference_logits) = (Logits::default(), Logits::default());
    for (index, window) in judge.windows.iter().enumerate() {
        for span in spans(window.len(), judge.windows.first(), model.max_batch_tokens()) {
            if judge.stop.load(Ordering::Relaxed) {
                return Err(EvalError::Stopped);
            }
            let pass = Pass { window, span, index };
            pass.run(model, &mut logits)?;
            if let Some(reference) = &mut reference {
                pass.run(*reference, &mut reference_logits)?;
            }
            let beside = reference.is_some().then_some(&reference_logits);
            pass.score(&logits, beside, judge.threads, &mut scores)?;
        }
        let nll: f64 = scores.iter().map(|score: &TokenScore| -score.log_p).sum();
        progress(Progress { done: index + 1, total, perplexity: (nll / scores.len() as f64).exp() });
    }
    Ok(Metrics::new(&scores))
}

/// Consecutive positions of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: usize,
    end: usize,
    /// Whether the successors of its positions are judged.
    judged: bool,
}

/// The passes of a window: the first half in the largest steps, the second in steps whose logits are looked at. The last token has
/// no successor to judge, so it is not computed.
fn spans(size: usize, first: usize, most: usize) -> Vec<Span> {
    let steps = |from: usize, to: usize, step: usize, judged| {
        (from..to).step_by(step).map(move |start| Span { start, end: to.min(start + step), judged })
    };
    steps(0, first, most, false).chain(steps(first, size - 1, ROWS.min(most), true)).collect()
}

struct Pass<'a> {
    window: &'a [u32],
    span: Span,
    index: usize,
}

impl Pass<'_> {
    fn run(&self, backend: &mut dyn Backend, logits: &mut Logits) -> Result<(), EvalError> {
        let blocks: Vec<BlockId> =
            (0..self.window.len().div_ceil(BLOCK_TOKENS) as u32).map(BlockId).collect();
        let Span { start, end, judged } = self.span;
        let chunk = Chunk {
            tokens: &self.window[start..end],
            start,
            blocks: &blocks,
            logits: if judged { LogitsFor::All } else { LogitsFor::None },
        };
        backend.forward(&[chunk], logits).map_err(|source| EvalError::Backend { window: self.index, source })
    }

    fn score(
        &self,
        logits: &Logits,
        reference: Option<&Logits>,
        threads: usize,
        scores: &mut Vec<TokenScore>,
    ) -> Result<(), EvalError> {
        let Span { start, end, judged } = self.span;
        if !judged {
            return Ok(());
        }
        let from = scores.len();
        scores.resize(from + end - start, TokenScore::default());
        let new = &mut scores[from..];
        let share = new.len().div_ceil(threads.max(1));
        std::thread::scope(|scope| {
            for (part, new) in new.chunks_mut(share).enumerate() {
                scope.spawn(move || {
                    for (row, score) in (part * share..).zip(new) {
                        let next = self.window[start + row + 1];
                        *score = score_token(logits.row(row), reference.map(|all| all.row(row)), next);
                    }
                });
            }
        });
        let bad = |x: f64| !x.is_finite();
        for score in &scores[from..] {
            let who = match score.beside {
                _ if bad(score.log_p) => "model",
                Some(beside) if bad(beside.log_p) => "reference",
                _ => continue,
            };
            return Err(EvalError::NotFinite { who, window: self.index });
        }
        Ok(())
    }
}

fn score_token(logits: &[f32], reference: Option<&[f32]>, next: u32) -> TokenScore {
    let model = Normalized::new(logits);
    let beside = reference.map(|logits| {
        let reference = Normalized::new(logits);
        Beside {
            log_p: reference.log_p(next),
            divergence: reference.divergence(&model),
            same_top: reference.top == model.top,
        }
    });
    TokenScore { log_p: model.log_p(next), beside }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_passed_in_order_and_judged_in_its_second_half() {
        let spans = spans(512, 256, 200);
        let ends: Vec<_> = spans.iter().map(|span| (span.start, span.end, span.judged)).collect();
        assert_eq!(ends, [(0, 200, false), (200, 256, false), (256, 384, true), (384, 511, true)]);
    }

    #[test]
    fn a_token_is_scored_by_what_the_position_before_it_says() {
        let score = score_token(&[0.0, 2.0, 0.0], Some(&[2.0, 0.0, 0.0]), 1);
        let sum = 2.0 + 2f64.exp();
        assert!((score.log_p - (2f64.exp() / sum).ln()).abs() < 1e-6);
        let beside = score.beside.unwrap();
        assert!((beside.log_p - (1.0 / sum).ln()).abs() < 1e-6);
        assert!(!beside.same_top);
        // Where the reference is sure the model is not: 2 of 3 nats of logits differ.
        let expected = (2f64.exp() - 1.0) / sum * 2.0;
        assert!((beside.divergence - expected).abs() < 1e-6);
    }
}
