//! Configurations as published before Transformers 5, which the fixtures do not cover.

use serde_json::{Map, Value, json};

use super::*;
use crate::config::{Activation, RopeConfig};
use crate::rope::{self, Scaling};

fn read(config: Value) -> Result<ModelConfig, ConfigError> {
    let root: Map<String, Value> = config.as_object().unwrap().clone();
    let class = root["architectures"][0].as_str().unwrap().to_owned();
    let architecture = Architecture::by_hf_class(&class).unwrap();
    (architecture.from_hf)(&HfConfig::new(&root, class, None))
}

fn plain_rope(dim: usize, theta: f64) -> RopeConfig {
    rope::rope(dim, theta, &Scaling::None)
}

#[test]
fn names_are_claimed_once() {
    let mut seen = std::collections::HashSet::new();
    for arch in ALL {
        let names = arch.hf_classes.iter().chain(arch.hf_model_types).chain(arch.gguf.as_ref());
        for name in names {
            let same_thing = arch.gguf == Some(name) && arch.hf_model_types.contains(name);
            assert!(seen.insert(*name) || same_thing, "{name}");
        }
    }
}

#[test]
fn llama_3_1_scales_its_rotation() {
    let config = read(json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 131072,
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": false, "vocab_size": 128256
    }))
    .unwrap();
    assert_eq!((config.context_length, config.head_dim, config.n_kv_heads), (131_072, 128, 8));
    let plain = plain_rope(128, 500_000.0);
    assert_eq!(config.ropes[0].inv_freq[0], plain.inv_freq[0]);
    assert_eq!(config.ropes[0].inv_freq[63], plain.inv_freq[63] / 8.0);
    assert_eq!(config.kv_bytes_per_token(), 131_072);
}

#[test]
fn qwen_2_5_has_a_window_that_is_switched_off() {
    let config = json!({
        "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 3584,
        "intermediate_size": 18944, "max_position_embeddings": 32768, "max_window_layers": 28,
        "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": false,
        "use_sliding_window": false, "vocab_size": 152064
    });
    let read_config = read(config.clone()).unwrap();
    assert!(read_config.layers.iter().all(|layer| layer.window.is_none()));
    assert_eq!(read_config.ropes, [plain_rope(128, 1_000_000.0)]);

    let mut extended = config;
    extended["rope_scaling"] =
        json!({"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"});
    let extended = read(extended).unwrap();
    assert_eq!(extended.ropes[0].inv_freq[63], plain_rope(128, 1_000_000.0).inv_freq[63] / 4.0);
    assert!((extended.ropes[0].amplitude - 1.138_629_4).abs() < 1e-6);
}

#[test]
fn mistral_without_a_window_says_null() {
    let mut config = json!({
        "architectures": ["MistralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32,
        "num_hidden_layers": 2, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "sliding_window": 4096, "tie_word_embeddings": false, "vocab_size": 32000
    });
    assert_eq!(read(config.clone()).unwrap().layers[1].window, Some(4096));
    config["sliding_window"] = Value::Null;
    assert_eq!(read(config).unwrap().layers[1].window, None);
}

#[test]
fn gemma_2_alternates_from_its_pattern() {
    let config = read(json!({
        "architectures": ["Gemma2ForCausalLM"], "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        "head_dim": 128, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 4608, "intermediate_size": 36864, "max_position_embeddings": 8192,
        "num_attention_heads": 32, "num_hidden_layers": 46, "num_key_value_heads": 16,
        "query_pre_attn_scalar": 144, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "sliding_window": 4096,
        "vocab_size": 256000
    }))
    .unwrap();
    assert_eq!(config.layers[0].window, Some(4096));
    assert_eq!(config.layers[1].window, None);
    assert_eq!(config.attn_scale, 1.0 / 12.0);
    assert_eq!((config.attn_softcap, config.logit_softcap), (Some(50.0), Some(30.0)));
    assert_eq!(config.activation, Activation::GeluTanh);
    assert!(config.tied_embeddings && config.post_norms && !config.qk_norm);
    assert_eq!(config.embedding_scale, 4608f32.sqrt());
}

#[test]
fn gemma_3_leaves_most_of_its_nested_configuration_out() {
    let config = read(json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "eos_token_id": [1, 106],
        "model_type": "gemma3",
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024},
        "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27}
    }))
    .unwrap();
    assert_eq!((config.n_heads, config.n_kv_heads, config.head_dim), (8, 4, 256));
    assert_eq!((config.vocab_size, config.context_length), (262_208, 131_072));
    let local: Vec<bool> = config.layers.iter().map(|layer| layer.window == Some(1024)).collect();
    assert_eq!(local[..7], [true, true, true, true, true, false, true]);
    assert_eq!((config.layers[0].rope, config.layers[5].rope), (1, 0));
    assert_eq!(config.ropes[0], rope::rope(256, 1e6, &Scaling::Linear { factor: 8.0 }));
    assert_eq!(config.ropes[1], plain_rope(256, 1e4));
    assert_eq!((config.attn_scale, config.attn_softcap), (1.0 / 16.0, None));
    assert!(config.qk_norm && config.tied_embeddings);
}

#[test]
fn phi_3_128k_keeps_its_factors_beside_the_original_context() {
    let factors: Vec<f64> = (0..48).map(|n| 1.0 + f64::from(n)).collect();
    let config = json!({
        "architectures": ["Phi3ForCausalLM"], "hidden_act": "silu", "hidden_size": 3072,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 32, "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": false,
        "rope_scaling": {"type": "su", "short_factor": factors, "long_factor": factors},
        "vocab_size": 32064
    });
    let config = read(config).unwrap();
    assert_eq!(config.context_length, 4096);
    let plain = plain_rope(96, 10_000.0);
    assert_eq!(config.ropes[0].inv_freq[47], plain.inv_freq[47] / 48.0);
    // sqrt(1 + ln 32 / ln 4096)
    assert!((config.ropes[0].amplitude - 1.190_238).abs() < 1e-6);
}

#[test]
fn linear_scaling_may_name_its_type_the_old_way() {
    let config = read(json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 64,
        "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 10,
        "rope_scaling": {"type": "linear", "factor": 2}
    }))
    .unwrap();
    assert_eq!(config.ropes, [rope::rope(16, 1e4, &Scaling::Linear { factor: 2.0 })]);
    assert_eq!((config.n_kv_heads, config.context_length, config.tied_embeddings), (4, 2048, false));
}
