//! Qwen 1.5, 2 and 2.5: Llama with biases on Q, K and V, and optionally windows in the upper layers.

use super::hf::{Defaults, HfConfig};
use super::{ATTENTION, Architecture, ConfigError, FEED_FORWARD, FFN_NORM, GLOBAL, TensorRule};
use crate::config::{ModelConfig, RopeLayout};
use crate::role::Role;

pub(super) static QWEN2: Architecture = Architecture {
    gguf: Some("qwen2"),
    hf_classes: &["Qwen2ForCausalLM"],
    hf_model_types: &["qwen2"],
    tensors: &[GLOBAL, ATTENTION, BIASES, FFN_NORM, FEED_FORWARD],
    from_hf: |hf| {
        let mut config = hf.decoder(&Defaults {
            context_length: 32_768,
            norm_eps: 1e-6,
            rope_theta: 10_000.0,
            tied_embeddings: false,
            vocab_size: None,
            n_heads: None,
            n_kv_heads: Some(32),
            head_dim: None,
        })?;
        upper_windows(hf, &mut config)?;
        Ok(config)
    },
    from_gguf: |gguf| gguf.decoder(RopeLayout::Halves),
};

const BIASES: &[TensorRule] = &[
    TensorRule::always(Role::QBias, "layers.{}.self_attn.q_proj.bias", "blk.{}.attn_q.bias"),
    TensorRule::always(Role::KBias, "layers.{}.self_attn.k_proj.bias", "blk.{}.attn_k.bias"),
    TensorRule::always(Role::VBias, "layers.{}.self_attn.v_proj.bias", "blk.{}.attn_v.bias"),
];

/// Qwen's switch: with `use_sliding_window`, layers from `max_window_layers` on see only the window.
pub(super) fn upper_windows(hf: &HfConfig<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    if hf.bool("use_sliding_window")? != Some(true) {
        return Ok(());
    }
    let window = hf.window(Some(4096))?;
    let first = hf.usize("max_window_layers")?.unwrap_or(28);
    let local = hf.local_layers(config.layers.len(), |layer| layer >= first)?;
    for (layer, is_local) in config.layers.iter_mut().zip(local) {
        layer.window = window.filter(|_| is_local);
    }
    Ok(())
}
