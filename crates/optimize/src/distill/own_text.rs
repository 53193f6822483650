//! Lets the student write the second half of a window itself, through the inference engine.
//!
//! A student that only ever reads others' text is never corrected where its own mistakes lead (GKD, arXiv 2306.13649). Tokens are
//! drawn at temperature 1 from numbers that depend on seed and sequence alone.

use std::path::PathBuf;

use wharf_engine::cpu::{CpuBackend, CpuOptions, KvType};
use wharf_engine::{BLOCK_TOKENS, Backend as _, BlockId, Chunk, Logits, LogitsFor};

use super::data::Window;
use super::error::DistillError;
use super::export::{self, Described};
use super::loss::{exp, log_sum_exp};
use super::parameters::Parameters;
use super::random::Random;
use super::student;

/// Writes text with the student as it is.
pub(super) struct OwnText<'a> {
    /// Where the student's files are put for the engine.
    pub(super) folder: PathBuf,
    pub(super) described: &'a Described,
    pub(super) seed: u64,
    pub(super) threads: usize,
}

/// Tokens of a window that stay as they are.
fn given(length: usize) -> usize {
    length / 2
}

/// Targets that count once the student has written its part of `window`.
pub(super) fn targets(window: &Window) -> usize {
    let length = window.tokens.len();
    window.targets(0) - window.targets(given(length) - 1) + length - given(length)
}

/// Apart from the streams of [`super::data::Order`], which count epochs.
const STREAM: u64 = 1 << 40;

impl OwnText<'_> {
    /// Replaces the second half of each window; `places` are the sequences' places in the endless order.
    pub(super) fn write(
        &self,
        parameters: &Parameters,
        windows: &mut [Window],
        places: &[u64],
    ) -> Result<(), DistillError> {
        let Some(length) = windows.first().map(|window| window.tokens.len()) else { return Ok(()) };
        export::model(&self.folder, parameters, self.described)?;
        let model = student::open(&self.folder, "student")?;
        let per_sequence = length.div_ceil(BLOCK_TOKENS);
        let options = CpuOptions {
            threads: self.threads,
            kv_tokens: windows.len() * per_sequence * BLOCK_TOKENS,
            kv_type: KvType::F32,
            max_batch_tokens: windows.len() * length,
            ..CpuOptions::default()
        };
        let mut backend = CpuBackend::load(model, &options, &mut |_, _| {})
            .map_err(|source| DistillError::Load { what: "student", source: Box::new(source) })?;
        let blocks: Vec<Vec<BlockId>> = (0..windows.len())
            .map(|i| (i * per_sequence..(i + 1) * per_sequence).map(|block| BlockId(block as u32)).collect())
            .collect();
        let mut randoms: Vec<Random> =
            places.iter().map(|place| Random::new(self.seed, STREAM + place)).collect();
        let mut logits = Logits::default();
        let mut from = 0;
        for until in given(length)..length {
            let chunks: Vec<Chunk<'_>> = windows
                .iter()
                .zip(&blocks)
                .map(|(window, blocks)| Chunk {
                    tokens: &window.tokens[from..until],
                    start: from,
                    blocks,
                    logits: LogitsFor::Last,
                })
                .collect();
            backend
                .forward(&chunks, &mut logits)
                .map_err(|source| DistillError::Forward { what: "student", source })?;
            for (row, (window, random)) in windows.iter_mut().zip(&mut randoms).enumerate() {
                window.tokens[until] = draw(logits.row(row), random.unit());
                window.learned[until] = true;
            }
            from = until;
        }
        Ok(())
    }
}

/// The token at `place` (0 to 1) of the distribution.
fn draw(logits: &[f32], place: f32) -> u32 {
    let lse = log_sum_exp(logits, 1.0) as f32;
    let mut left = f64::from(place);
    for (token, z) in logits.iter().enumerate() {
        left -= f64::from(exp(z - lse));
        if left < 0.0 {
            return token as u32;
        }
    }
    logits.len() as u32 - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_falls_where_the_mass_is() {
        let logits = [0.2f32.ln(), 0.5f32.ln(), 0.3f32.ln()];
        for (place, token) in [(0.0, 0), (0.19, 0), (0.21, 1), (0.69, 1), (0.71, 2), (1.0, 2)] {
            assert_eq!(draw(&logits, place), token, "{place}");
        }
    }
}
