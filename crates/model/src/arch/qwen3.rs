//! Qwen 3 (dense): Qwen 2 without biases, with RMSNorm on the heads of Q and K and a head size of its own.

use super::hf::Defaults;
use super::qwen2::upper_windows;
use super::{ATTENTION, Architecture, FEED_FORWARD, FFN_NORM, GLOBAL, OPTIONAL_BIASES, QK_NORM};
use crate::config::RopeLayout;

pub(super) static QWEN3: Architecture = Architecture {
    gguf: Some("qwen3"),
    hf_classes: &["Qwen3ForCausalLM"],
    hf_model_types: &["qwen3"],
    tensors: &[GLOBAL, ATTENTION, OPTIONAL_BIASES, QK_NORM, FFN_NORM, FEED_FORWARD],
    from_hf: |hf| {
        let mut config = hf.decoder(&Defaults {
            context_length: 32_768,
            norm_eps: 1e-6,
            rope_theta: 10_000.0,
            tied_embeddings: false,
            vocab_size: None,
            n_heads: None,
            n_kv_heads: Some(32),
            head_dim: Some(128),
        })?;
        config.qk_norm = true;
        upper_windows(hf, &mut config)?;
        Ok(config)
    },
    from_gguf: |gguf| {
        let mut config = gguf.decoder(RopeLayout::Halves)?;
        config.qk_norm = true;
        Ok(config)
    },
};
