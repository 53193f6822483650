//! Gemma 3 (text): Gemma 2 with norms on Q and K instead of soft-caps, and one global layer after five local
//! ones, which rotate with frequencies of their own.

use super::gemma2::{Softcaps, common, gguf_attn_scale, hf_common};
use super::hf::{Defaults, HfConfig};
use super::{
    ATTENTION, Architecture, ConfigError, FEED_FORWARD, GEMMA_NORMS, GLOBAL, GgufConfig, OPTIONAL_BIASES,
    QK_NORM,
};
use crate::config::{ModelConfig, RopeConfig, RopeLayout};
use crate::rope::{self, Scaling};

pub(super) static GEMMA3: Architecture = Architecture {
    gguf: Some("gemma3"),
    hf_classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    hf_model_types: &["gemma3_text", "gemma3"],
    tensors: &[GLOBAL, ATTENTION, OPTIONAL_BIASES, QK_NORM, GEMMA_NORMS, FEED_FORWARD],
    from_hf,
    from_gguf,
};

/// Index of each rotary embedding in [`ModelConfig::ropes`].
const GLOBAL_ROPE: usize = 0;
const LOCAL_ROPE: usize = 1;

/// The last layer of each period is global.
const PERIOD: usize = 6;

const LOCAL_THETA: f64 = 10_000.0;
const GLOBAL_THETA: f64 = 1_000_000.0;

fn from_hf(hf: &HfConfig<'_>) -> Result<ModelConfig, ConfigError> {
    let mut config = hf.base(&Defaults {
        context_length: 131_072,
        norm_eps: 1e-6,
        rope_theta: GLOBAL_THETA,
        tied_embeddings: true,
        vocab_size: Some(262_208),
        n_heads: Some(8),
        n_kv_heads: Some(4),
        head_dim: Some(256),
    })?;
    hf_common(hf, &mut config, Softcaps { attention: None, logits: None })?;
    config.qk_norm = true;
    let global = match hf.rope_parameters_of("full_attention")? {
        Some(parameters) => Some(parameters),
        None => hf.rope_parameters()?,
    };
    let (global, _) = hf.rope(&config, global, GLOBAL_THETA)?;
    config.ropes = vec![global, local_rope(hf, &config)?];

    let pattern = hf.usize("sliding_window_pattern")?.unwrap_or(PERIOD);
    if pattern == 0 {
        let expected = "at least 1".to_owned();
        return Err(ConfigError::Range { key: "sliding_window_pattern".into(), found: "0".into(), expected });
    }
    let local = hf.local_layers(config.layers.len(), |layer| !(layer + 1).is_multiple_of(pattern))?;
    let window = hf.window(Some(4096))?;
    apply(&mut config, window, &local);
    Ok(config)
}

/// Local layers have their own parameters since Transformers 5, and one key (`rope_local_base_freq`) before.
fn local_rope(hf: &HfConfig<'_>, config: &ModelConfig) -> Result<RopeConfig, ConfigError> {
    match hf.rope_parameters_of("sliding_attention")? {
        Some(parameters) => Ok(hf.rope(config, Some(parameters), LOCAL_THETA)?.0),
        None => {
            let theta = hf.positive_or("rope_local_base_freq", Some(LOCAL_THETA))?.unwrap_or(LOCAL_THETA);
            Ok(rope::rope(config.head_dim, theta, &Scaling::None))
        }
    }
}

fn from_gguf(gguf: &GgufConfig<'_>) -> Result<ModelConfig, ConfigError> {
    let mut config = gguf.base(RopeLayout::Halves)?;
    common(&mut config);
    config.qk_norm = true;
    gguf_attn_scale(gguf, &mut config, 62)?;
    config.attn_softcap = gguf.positive("attn_logit_softcapping")?.map(|x| x as f32);
    config.logit_softcap = gguf.positive("final_logit_softcapping")?.map(|x| x as f32);
    let scaling = gguf.scaling(&mut config)?;
    config.ropes = vec![
        gguf.rope(&config, "rope.freq_base", GLOBAL_THETA, &scaling)?,
        gguf.rope(&config, "rope.freq_base_swa", LOCAL_THETA, &Scaling::None)?,
    ];
    let local = gguf.local_layers(config.layers.len(), PERIOD)?;
    let window = gguf.window()?;
    apply(&mut config, window, &local);
    Ok(config)
}

fn apply(config: &mut ModelConfig, window: Option<usize>, local: &[bool]) {
    for (layer, is_local) in config.layers.iter_mut().zip(local) {
        layer.window = window.filter(|_| *is_local);
        layer.rope = if *is_local { LOCAL_ROPE } else { GLOBAL_ROPE };
    }
}
