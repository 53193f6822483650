//! Keys of GGUF metadata that the fixtures do not use.

use std::collections::BTreeMap;

use super::*;
use crate::arch::Architecture;

/// Tensors of a model of width 64 with 32 tokens, and rotary factors.
struct Facts {
    factors: BTreeMap<&'static str, Vec<f32>>,
}

impl TensorFacts for Facts {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        (name == "token_embd.weight").then_some(&[32, 64])
    }

    fn f32_vector(&self, name: &str) -> Result<Option<Vec<f32>>, ConfigError> {
        Ok(self.factors.get(name).cloned())
    }
}

/// Reads the configuration of a small model of `arch` with `keys` on top of what every file has.
fn read(arch: &str, keys: &[(&str, Value)]) -> Result<ModelConfig, ConfigError> {
    read_with(arch, keys, &[])
}

fn read_with(
    arch: &str,
    keys: &[(&str, Value)],
    factors: &[(&'static str, Vec<f32>)],
) -> Result<ModelConfig, ConfigError> {
    let usual = [
        ("block_count", Value::U64(12)),
        ("context_length", Value::U64(8192)),
        ("embedding_length", Value::U64(64)),
        ("feed_forward_length", Value::U64(96)),
        ("attention.head_count", Value::U64(4)),
        ("attention.layer_norm_rms_epsilon", Value::F64(1e-6)),
    ];
    let all = usual.iter().chain(keys);
    let metadata = Metadata(all.map(|(key, value)| (format!("{arch}.{key}"), value.clone())).collect());
    let facts = Facts { factors: factors.iter().cloned().collect() };
    let architecture = Architecture::by_gguf(arch).unwrap();
    (architecture.from_gguf)(&GgufConfig::new(&metadata, arch, &facts, None))
}

fn locals(config: &ModelConfig) -> Vec<bool> {
    config.layers.iter().map(|layer| layer.window.is_some()).collect()
}

#[test]
fn a_list_with_one_value_for_each_layer_must_agree() {
    let list = |values: Vec<u64>| [("attention.head_count_kv", Value::Array(Array::U64(values)))];
    assert_eq!(read("llama", &list(vec![2; 12])).unwrap().n_kv_heads, 2);
    let error = read("llama", &list([vec![2; 11], vec![1]].concat())).unwrap_err().to_string();
    assert!(error.contains("llama.attention.head_count_kv that differs from layer to layer"), "{error}");
    assert!(read("llama", &list(vec![])).is_err());
}

#[test]
fn the_window_pattern_is_a_period_or_a_flag_for_each_layer() {
    let window = ("attention.sliding_window", Value::U64(16));
    let with = |pattern| read("gemma3", &[window.clone(), ("attention.sliding_window_pattern", pattern)]);
    let usual = locals(&read("gemma3", std::slice::from_ref(&window)).unwrap());
    assert_eq!(usual, [true, true, true, true, true, false, true, true, true, true, true, false]);
    assert_eq!(locals(&with(Value::U64(3)).unwrap())[..6], [true, true, false, true, true, false]);
    let flags: Vec<bool> = (0..12).map(|layer| layer == 4).collect();
    let config = with(Value::Array(Array::Bool(flags.clone()))).unwrap();
    assert_eq!(locals(&config), flags);
    assert_eq!((config.layers[4].rope, config.layers[5].rope), (1, 0));
    assert!(with(Value::U64(0)).is_err());
    assert!(with(Value::Array(Array::Bool(vec![true]))).is_err());
    assert!(read("gemma3", &[]).unwrap().layers.iter().all(|layer| layer.window.is_none()));
}

#[test]
fn gemma_27b_is_known_by_its_layers() {
    let key_length = ("attention.key_length", Value::U64(32));
    let of = |arch, layers| {
        read(arch, &[key_length.clone(), ("block_count", Value::U64(layers))]).unwrap().attn_scale
    };
    assert_eq!(of("gemma2", 46), 0.25);
    assert_eq!(of("gemma3", 62), 0.25);
    assert_eq!(of("gemma2", 42), 32f32.powf(-0.5));
    assert_eq!(of("gemma3", 46), 32f32.powf(-0.5));
}

#[test]
fn scaling_is_read_from_old_and_new_keys() {
    let plain = read("llama", &[]).unwrap().ropes[0].inv_freq.clone();
    let halved: Vec<f64> = plain.iter().map(|f| f / 2.0).collect();
    let new = [("rope.scaling.type", Value::Str("linear".into())), ("rope.scaling.factor", Value::F64(2.0))];
    assert_eq!(read("llama", &new).unwrap().ropes[0].inv_freq, halved);
    assert_eq!(read("llama", &[("rope.scale_linear", Value::F64(2.0))]).unwrap().ropes[0].inv_freq, halved);
    let none = [("rope.scaling.type", Value::Str("none".into())), ("rope.scaling.factor", Value::F64(2.0))];
    assert_eq!(read("llama", &none).unwrap().ropes[0].inv_freq, plain);
    let factors = [("rope_freqs.weight", vec![2.0; 8])];
    assert_eq!(read_with("llama", &[], &factors).unwrap().ropes[0].inv_freq, halved);
}

#[test]
fn rotary_factors_must_fit_the_head() {
    for bad in [vec![1.0; 7], vec![0.0; 8], vec![f32::NAN; 8], vec![-1.0; 8]] {
        let error = read_with("llama", &[], &[("rope_freqs.weight", bad)]).unwrap_err().to_string();
        assert!(error.contains("rope_freqs.weight") && error.contains("8 positive factors"), "{error}");
    }
    let longrope = [("rope.scaling.type", Value::Str("longrope".into()))];
    let error = read("phi3", &longrope).unwrap_err().to_string();
    assert!(error.contains("rope_factors_short.weight"), "{error}");
}

#[test]
fn scales_and_caps_have_keys_of_their_own() {
    let keys = [("attention.scale", Value::F64(0.5)), ("logit_scale", Value::F64(0.125))];
    let config = read("llama", &keys).unwrap();
    assert_eq!((config.attn_scale, config.logit_scale), (0.5, 0.125));
    let config = read("gemma2", &[("final_logit_softcapping", Value::F64(7.0))]).unwrap();
    assert_eq!((config.attn_softcap, config.logit_softcap), (Some(50.0), Some(7.0)));
    for bad in [0.0, -1.0, 1e300, f64::NAN] {
        assert!(read("gemma2", &[("final_logit_softcapping", Value::F64(bad))]).is_err(), "{bad}");
    }
    let lengths = [("attention.key_length", Value::U64(16)), ("attention.value_length", Value::U64(32))];
    assert!(read("llama", &lengths).is_err());
}
