//! Phi-3 and Phi-4-mini: Llama with Q, K, V in one matrix, gate and up in another, a rotation of part of each
//! head, and LongRoPE.

use super::hf::Defaults;
use super::{Architecture, FFN_NORM, GLOBAL, TensorRule};
use crate::config::RopeLayout;
use crate::role::Role;

pub(super) static PHI3: Architecture = Architecture {
    gguf: Some("phi3"),
    hf_classes: &["Phi3ForCausalLM"],
    hf_model_types: &["phi3"],
    tensors: &[GLOBAL, FUSED, FFN_NORM],
    from_hf: |hf| {
        let mut config = hf.decoder(&Defaults {
            context_length: 4096,
            norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tied_embeddings: false,
            vocab_size: Some(32_064),
            n_heads: None,
            n_kv_heads: None,
            head_dim: None,
        })?;
        let window = hf.window(None)?;
        config.layers.iter_mut().for_each(|layer| layer.window = window);
        Ok(config)
    },
    from_gguf: |gguf| {
        let mut config = gguf.decoder(RopeLayout::Halves)?;
        let window = gguf.window()?;
        config.layers.iter_mut().for_each(|layer| layer.window = window);
        Ok(config)
    },
};

const FUSED: &[TensorRule] = &[
    TensorRule::always(Role::AttnNorm, "layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight"),
    TensorRule::always(Role::Q, "layers.{}.self_attn.qkv_proj.weight", "blk.{}.attn_qkv.weight"),
    TensorRule::always(Role::K, "layers.{}.self_attn.qkv_proj.weight", "blk.{}.attn_qkv.weight"),
    TensorRule::always(Role::V, "layers.{}.self_attn.qkv_proj.weight", "blk.{}.attn_qkv.weight"),
    TensorRule::always(Role::O, "layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight"),
    TensorRule::always(Role::Gate, "layers.{}.mlp.gate_up_proj.weight", "blk.{}.ffn_up.weight"),
    TensorRule::always(Role::Up, "layers.{}.mlp.gate_up_proj.weight", "blk.{}.ffn_up.weight"),
    TensorRule::always(Role::Down, "layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight"),
];
