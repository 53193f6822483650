//! Decides what a tiny random model for tests of the engine and the server looks like.

use std::fs;
use std::io;
use std::path::Path;

use wharf_kernels::DType;
use wharf_kernels::block::quantize;

use crate::gguf::{Builder, Value};
use crate::noise::noise;
use crate::vocabulary::{CHAT_TEMPLATE, Vocabulary};

/// A Llama with random weights, a byte-level tokenizer and a chat template, written as one GGUF file.
///
/// Equal fields give equal files. The default takes about 0.4 MB and computes a token in well under a
/// millisecond; its answers are noise, but fixed noise.
#[derive(Clone, Debug, PartialEq)]
pub struct TinyModel {
    /// Seed of the weights.
    pub seed: u64,
    /// `general.name`.
    pub name: String,
    /// Tokens, at least 267.
    pub vocab_size: usize,
    /// Longest sequence, tokens.
    pub context_length: usize,
    /// Width; a multiple of `n_heads`, and of 32 for quantized types.
    pub hidden_size: usize,
    /// Inner width of the feed-forward; the same multiples.
    pub ffn_size: usize,
    /// Layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Type of the matrices: F32, F16, BF16, Q8_0, Q4_0 or Q4_1; of [noise](TinyModel::noise) any.
    pub dtype: DType,
    /// Type of the embedding.
    pub embedding_dtype: DType,
    /// Whether the output projection is the embedding.
    pub tied: bool,
    /// Sliding window of every layer, tokens.
    pub window: Option<u32>,
    /// `tokenizer.chat_template`; `None` leaves it out.
    pub chat_template: Option<String>,
    /// Whether matrices are random bits ([`noise`](crate::noise)) instead of numbers that are quantised.
    pub noise: bool,
}

impl Default for TinyModel {
    fn default() -> TinyModel {
        TinyModel {
            seed: 1,
            name: "tiny".to_owned(),
            vocab_size: 288,
            context_length: 512,
            hidden_size: 64,
            ffn_size: 128,
            n_layers: 2,
            n_heads: 4,
            n_kv_heads: 2,
            dtype: DType::F32,
            embedding_dtype: DType::F32,
            tied: true,
            window: None,
            chat_template: Some(CHAT_TEMPLATE.to_owned()),
            noise: false,
        }
    }
}

impl TinyModel {
    /// Writes the file.
    ///
    /// # Errors
    /// Those of the file system.
    ///
    /// # Panics
    /// When the sizes do not fit each other or the types, which is a mistake in the test.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, self.build().bytes())
    }

    /// The tokens of the model.
    pub fn vocabulary(&self) -> Vocabulary {
        Vocabulary::new(self.vocab_size)
    }

    /// The file's contents, for tests that change something before writing it.
    ///
    /// # Panics
    /// As [`TinyModel::write`].
    pub fn build(&self) -> Builder {
        assert!(self.hidden_size.is_multiple_of(self.n_heads), "heads divide the hidden size");
        let mut file = Builder::default();
        self.describe(&mut file);
        let mut random = Random(self.seed);
        let (hidden, ffn) = (self.hidden_size, self.ffn_size);
        let kv = hidden / self.n_heads * self.n_kv_heads;
        let mut matrix = |file: &mut Builder, name: &str, rows: usize, cols: usize, dtype: DType| {
            if self.noise {
                file.tensor(name, rows, cols, dtype.ggml(), noise(dtype, rows, cols, random.next()));
                return;
            }
            // Scaled so that activations neither vanish nor explode, and wide enough that logits differ.
            let values = random.normal(rows * cols, 1.5 / (cols as f32).sqrt());
            let data = quantize(dtype, &values).expect("the sizes fit the types");
            file.tensor(name, rows, cols, dtype.ggml(), data);
        };
        let mut norm_seed = Random(self.seed ^ 0x9e37);
        let mut norm = |file: &mut Builder, name: &str| {
            let values = norm_seed.normal(hidden, 0.1).into_iter().flat_map(|x| (1.0 + x).to_le_bytes());
            file.tensor(name, 1, hidden, DType::F32.ggml(), values.collect());
        };
        matrix(&mut file, "token_embd.weight", self.vocab_size, hidden, self.embedding_dtype);
        for layer in 0..self.n_layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            norm(&mut file, &name("attn_norm"));
            matrix(&mut file, &name("attn_q"), hidden, hidden, self.dtype);
            matrix(&mut file, &name("attn_k"), kv, hidden, self.dtype);
            matrix(&mut file, &name("attn_v"), kv, hidden, self.dtype);
            matrix(&mut file, &name("attn_output"), hidden, hidden, self.dtype);
            norm(&mut file, &name("ffn_norm"));
            matrix(&mut file, &name("ffn_gate"), ffn, hidden, self.dtype);
            matrix(&mut file, &name("ffn_up"), ffn, hidden, self.dtype);
            matrix(&mut file, &name("ffn_down"), hidden, ffn, self.dtype);
        }
        norm(&mut file, "output_norm.weight");
        if !self.tied {
            matrix(&mut file, "output.weight", self.vocab_size, hidden, self.embedding_dtype);
        }
        file
    }

    fn describe(&self, file: &mut Builder) {
        file.set("general.architecture", "llama")
            .set("general.name", self.name.as_str())
            .set("llama.block_count", Value::U32(self.n_layers as u32))
            .set("llama.context_length", Value::U32(self.context_length as u32))
            .set("llama.embedding_length", Value::U32(self.hidden_size as u32))
            .set("llama.feed_forward_length", Value::U32(self.ffn_size as u32))
            .set("llama.attention.head_count", Value::U32(self.n_heads as u32))
            .set("llama.attention.head_count_kv", Value::U32(self.n_kv_heads as u32))
            .set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5))
            .set("llama.rope.freq_base", Value::F32(10_000.0));
        if let Some(window) = self.window {
            file.set("llama.attention.sliding_window", Value::U32(window));
        }
        self.vocabulary().describe(file);
        if let Some(template) = &self.chat_template {
            file.set("tokenizer.chat_template", template.as_str());
        }
    }
}

/// SplitMix64: small, seedable, the same on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `n` values of mean 0 and deviation `scale`: sums of four uniforms, near enough to a normal
    /// distribution and exact arithmetic everywhere.
    fn normal(&mut self, n: usize, scale: f32) -> Vec<f32> {
        let mut uniform = || (self.next() >> 40) as f32 / (1u32 << 24) as f32 - 0.5;
        (0..n).map(|_| (uniform() + uniform() + uniform() + uniform()) * 3.0f32.sqrt() * scale).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_descriptions_give_equal_files() {
        assert_eq!(TinyModel::default().build().bytes(), TinyModel::default().build().bytes());
        let other = TinyModel { seed: 2, ..TinyModel::default() };
        assert_ne!(TinyModel::default().build().bytes(), other.build().bytes());
    }

    #[test]
    fn quantized_files_are_smaller() {
        let sizes = [DType::F32, DType::Q8_0, DType::Q4_0].map(|dtype| {
            TinyModel { dtype, embedding_dtype: dtype, ..TinyModel::default() }.build().bytes().len()
        });
        assert!(sizes[0] > sizes[1] && sizes[1] > sizes[2], "{sizes:?}");
    }
}
