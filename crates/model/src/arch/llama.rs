//! Llama 1 to 3 and what copies it: SmolLM2, TinyLlama, Yi and others.

use super::hf::Defaults;
use super::{ATTENTION, Architecture, FEED_FORWARD, FFN_NORM, GLOBAL, OPTIONAL_BIASES};
use crate::config::RopeLayout;

pub(super) static LLAMA: Architecture = Architecture {
    gguf: Some("llama"),
    hf_classes: &["LlamaForCausalLM"],
    hf_model_types: &["llama"],
    tensors: &[GLOBAL, ATTENTION, OPTIONAL_BIASES, FFN_NORM, FEED_FORWARD],
    from_hf: |hf| {
        hf.refuse("mlp_bias")?;
        hf.decoder(&Defaults {
            context_length: 2048,
            norm_eps: 1e-6,
            rope_theta: 10_000.0,
            tied_embeddings: false,
            vocab_size: None,
            n_heads: None,
            n_kv_heads: None,
            head_dim: None,
        })
    },
    // Mistral's GGUF files call themselves llama, so a sliding window can appear here.
    from_gguf: |gguf| {
        let mut config = gguf.decoder(RopeLayout::Interleaved)?;
        let window = gguf.window()?;
        config.layers.iter_mut().for_each(|layer| layer.window = window);
        Ok(config)
    },
};
