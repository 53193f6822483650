//! Asks the teacher: logits through the inference engine, kept as lists of the likeliest tokens when asked to.

mod cache;

use std::path::Path;

use wharf_engine::cpu::{CpuBackend, CpuOptions, KvType};
use wharf_engine::{BLOCK_TOKENS, Backend as _, BlockId, Chunk, Logits, LogitsFor};
use wharf_model::Model;

use super::compute::{Compute, Lessons, Micro, Told};
use super::error::DistillError;
use super::loss::log_sum_exp;
use super::parameters::Parameters;
use cache::Cache;

/// A model whose logits are computed by the engine.
pub(super) struct Scorer {
    backend: CpuBackend,
    what: &'static str,
    logits: Logits,
    /// Sequences of one pass.
    most: usize,
    length: usize,
}

impl Scorer {
    /// Loads a model for passes of up to `most` sequences of `length` tokens.
    pub(super) fn load(
        model: Model,
        what: &'static str,
        most: usize,
        length: usize,
        threads: usize,
    ) -> Result<Scorer, DistillError> {
        let options = CpuOptions {
            threads,
            kv_tokens: most * length.next_multiple_of(BLOCK_TOKENS),
            kv_type: KvType::F32,
            max_batch_tokens: most * length,
            ..CpuOptions::default()
        };
        let backend = CpuBackend::load(model, &options, &mut |_, _| {})
            .map_err(|source| DistillError::Load { what, source: Box::new(source) })?;
        Ok(Scorer { backend, what, logits: Logits::default(), most, length })
    }

    /// Logits of all positions, some sequences at a time: `(rows, vocab)`.
    pub(super) fn score(
        &mut self,
        batch: &Micro,
        rows: &mut dyn FnMut(&[f32]) -> Result<(), DistillError>,
    ) -> Result<(), DistillError> {
        let per_sequence = self.length.div_ceil(BLOCK_TOKENS) as u32;
        let blocks: Vec<Vec<BlockId>> = (0..self.most as u32)
            .map(|i| (i * per_sequence..(i + 1) * per_sequence).map(BlockId).collect())
            .collect();
        for sequences in batch.tokens.chunks(self.most * batch.length) {
            let chunks: Vec<Chunk<'_>> = sequences
                .chunks(batch.length)
                .zip(&blocks)
                .map(|(tokens, blocks)| Chunk { tokens, start: 0, blocks, logits: LogitsFor::All })
                .collect();
            self.backend
                .forward(&chunks, &mut self.logits)
                .map_err(|source| DistillError::Forward { what: self.what, source })?;
            rows(self.logits.values())?;
        }
        Ok(())
    }
}

/// The teacher in the training loop.
pub(super) struct Teacher {
    scorer: Scorer,
    cache: Option<Cache>,
    temperature: f32,
    /// Weights for the trainer's own forward pass, when its inner layers are compared.
    features: Option<(Parameters, Vec<usize>)>,
    vocab: usize,
}

impl Teacher {
    pub(super) fn new(scorer: Scorer, temperature: f32) -> Teacher {
        let vocab = scorer.backend.vocab_size();
        Teacher { scorer, cache: None, temperature, features: None, vocab }
    }

    /// Keeps the `k` likeliest tokens of each position of `windows` windows in a file.
    pub(super) fn cached(mut self, path: &Path, k: usize, windows: usize) -> Result<Teacher, DistillError> {
        let (length, k) = (self.scorer.length, k.min(self.vocab));
        self.cache = Some(Cache::open(path, k, length, windows, self.temperature)?);
        Ok(self)
    }

    /// Tells the output of these layers too.
    pub(super) fn with_features(mut self, parameters: Parameters, layers: Vec<usize>) -> Teacher {
        self.features = Some((parameters, layers));
        self
    }

    pub(super) fn scorer(&mut self) -> &mut Scorer {
        &mut self.scorer
    }

    /// What the teacher says about a batch.
    pub(super) fn tell(&mut self, batch: &Micro, compute: &dyn Compute) -> Result<Told, DistillError> {
        let features = match &self.features {
            Some((parameters, layers)) => compute.features(parameters, batch, layers),
            None => Vec::new(),
        };
        let logits = match &mut self.cache {
            None => {
                let mut all = Vec::with_capacity(batch.tokens.len() * self.vocab);
                self.scorer.score(batch, &mut |rows| {
                    all.extend_from_slice(rows);
                    Ok(())
                })?;
                Lessons::Full(all)
            }
            Some(cache) => {
                let (temperature, vocab) = (self.temperature, self.vocab);
                let k = cache.k();
                if batch.windows.is_empty() || !cache.has(&batch.windows)? {
                    let (mut ids, mut log_probs) = (Vec::new(), Vec::new());
                    self.scorer.score(batch, &mut |rows| {
                        for row in rows.chunks(vocab) {
                            list(row, k, temperature, &mut ids, &mut log_probs);
                        }
                        Ok(())
                    })?;
                    cache.store(&batch.windows, &ids, &log_probs)?;
                    Lessons::Top { k, ids, log_probs }
                } else {
                    let (ids, log_probs) = cache.load(&batch.windows)?;
                    Lessons::Top { k, ids, log_probs }
                }
            }
        };
        Ok(Told { logits, features })
    }
}

/// Appends the `k` likeliest tokens of a row, in the order of their ids, and their log-probabilities at `temperature`.
fn list(row: &[f32], k: usize, temperature: f32, ids: &mut Vec<u32>, log_probs: &mut Vec<f32>) {
    let lse = log_sum_exp(row, temperature.recip()) as f32;
    let mut order: Vec<u32> = (0..row.len() as u32).collect();
    // Ties go to the lower id, so that the list is the same wherever it is made.
    let before = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
    if k < order.len() {
        order.select_nth_unstable_by(k, before);
        order.truncate(k);
    }
    order.sort_unstable();
    log_probs.extend(order.iter().map(|id| row[*id as usize] / temperature - lse));
    ids.extend(order);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_holds_the_likeliest_with_probabilities_of_the_whole() {
        let row: Vec<f32> = [0.1f32, 0.4, 0.2, 0.3].iter().map(|p| p.ln() * 2.0 + 5.0).collect();
        let (mut ids, mut log_probs) = (Vec::new(), Vec::new());
        list(&row, 2, 2.0, &mut ids, &mut log_probs);
        assert_eq!(ids, [1, 3]);
        assert!((log_probs[0].exp() - 0.4).abs() < 1e-6 && (log_probs[1].exp() - 0.3).abs() < 1e-6);
    }
}
