//! Gemma 2: norms around both halves of a layer, every other layer local, soft-capped scores and logits.

use super::hf::{Defaults, HfConfig};
use super::{
    ATTENTION, Architecture, ConfigError, FEED_FORWARD, GEMMA_NORMS, GLOBAL, GgufConfig, OPTIONAL_BIASES,
};
use crate::config::{Activation, ModelConfig, RopeLayout};

pub(super) static GEMMA2: Architecture = Architecture {
    gguf: Some("gemma2"),
    hf_classes: &["Gemma2ForCausalLM"],
    hf_model_types: &["gemma2"],
    tensors: &[GLOBAL, ATTENTION, OPTIONAL_BIASES, GEMMA_NORMS, FEED_FORWARD],
    from_hf,
    from_gguf,
};

/// Layer 0 is local, layer 1 global, and so on.
const PERIOD: usize = 2;

fn from_hf(hf: &HfConfig<'_>) -> Result<ModelConfig, ConfigError> {
    let mut config = hf.decoder(&Defaults {
        context_length: 8192,
        norm_eps: 1e-6,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        vocab_size: Some(256_000),
        n_heads: Some(8),
        n_kv_heads: Some(4),
        head_dim: Some(256),
    })?;
    hf_common(hf, &mut config, Softcaps { attention: Some(50.0), logits: Some(30.0) })?;
    let window = hf.window(Some(4096))?;
    let local = hf.local_layers(config.layers.len(), |layer| !(layer + 1).is_multiple_of(PERIOD))?;
    for (layer, is_local) in config.layers.iter_mut().zip(local) {
        layer.window = window.filter(|_| is_local);
    }
    Ok(config)
}

/// Soft-caps that a class assumes when config.json does not mention them.
pub(super) struct Softcaps {
    pub(super) attention: Option<f64>,
    pub(super) logits: Option<f64>,
}

/// What Gemma 2 and 3 share in config.json.
pub(super) fn hf_common(
    hf: &HfConfig<'_>,
    config: &mut ModelConfig,
    softcaps: Softcaps,
) -> Result<(), ConfigError> {
    hf.refuse("use_bidirectional_attention")?;
    common(config);
    // Safetensors of Gemma store the norm weights minus one.
    config.norm_offset = 1.0;
    config.activation = hf.activation("hidden_activation", Activation::GeluTanh)?;
    config.attn_scale =
        hf.positive_or("query_pre_attn_scalar", Some(256.0))?.map_or(1.0, |s| s.powf(-0.5)) as f32;
    config.attn_softcap = hf.positive_or("attn_logit_softcapping", softcaps.attention)?.map(|x| x as f32);
    config.logit_softcap = hf.positive_or("final_logit_softcapping", softcaps.logits)?.map(|x| x as f32);
    Ok(())
}

/// What Gemma 2 and 3 share in both formats.
pub(super) fn common(config: &mut ModelConfig) {
    config.activation = Activation::GeluTanh;
    config.post_norms = true;
    config.embedding_scale = (config.hidden_size as f64).sqrt() as f32;
}

fn from_gguf(gguf: &GgufConfig<'_>) -> Result<ModelConfig, ConfigError> {
    let mut config = gguf.decoder(RopeLayout::Halves)?;
    common(&mut config);
    gguf_attn_scale(gguf, &mut config, 46)?;
    config.attn_softcap = Some(gguf.positive("attn_logit_softcapping")?.unwrap_or(50.0) as f32);
    config.logit_softcap = Some(gguf.positive("final_logit_softcapping")?.unwrap_or(30.0) as f32);
    let window = gguf.window()?.unwrap_or(4096);
    let local = gguf.local_layers(config.layers.len(), PERIOD)?;
    for (layer, is_local) in config.layers.iter_mut().zip(local) {
        layer.window = is_local.then_some(window);
    }
    Ok(config)
}

/// The 27B models alone scale scores by the width per head instead of the head size. GGUF has no key that
/// says so; llama.cpp recognises them by their number of layers, and so do we.
pub(super) fn gguf_attn_scale(
    gguf: &GgufConfig<'_>,
    config: &mut ModelConfig,
    layers_of_27b: usize,
) -> Result<(), ConfigError> {
    if gguf.positive("attention.scale")?.is_none() && config.layers.len() == layers_of_27b {
        config.attn_scale = ((config.hidden_size / config.n_heads) as f64).powf(-0.5) as f32;
    }
    Ok(())
}
