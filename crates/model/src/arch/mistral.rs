//! Mistral 7B and its successors of the same class: Llama with a sliding window in every layer.
//!
//! Its GGUF files call themselves `llama`, which reads the window there.

use super::hf::Defaults;
use super::llama::LLAMA;
use super::{ATTENTION, Architecture, FEED_FORWARD, FFN_NORM, GLOBAL};

pub(super) static MISTRAL: Architecture = Architecture {
    gguf: None,
    hf_classes: &["MistralForCausalLM"],
    hf_model_types: &["mistral"],
    tensors: &[GLOBAL, ATTENTION, FFN_NORM, FEED_FORWARD],
    from_hf: |hf| {
        let mut config = hf.decoder(&Defaults {
            context_length: 4096 * 32,
            norm_eps: 1e-6,
            rope_theta: 10_000.0,
            tied_embeddings: false,
            vocab_size: None,
            n_heads: None,
            n_kv_heads: Some(8),
            head_dim: None,
        })?;
        let window = hf.window(Some(4096))?;
        config.layers.iter_mut().for_each(|layer| layer.window = window);
        Ok(config)
    },
    from_gguf: LLAMA.from_gguf,
};
