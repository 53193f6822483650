//! Reads config.json: by the rules of the architectures that Wharf serves, else by the keys that most models share.

use std::path::Path;

use serde_json::{Map, Value};
use wharf_model::{Model, OpenError};

use super::HeaderError;
use crate::scheme::Scheme;
use crate::shape::{Experts, Shape};

/// The model, and the scheme that its configuration says the weights have.
pub(super) fn shape(text: &[u8], file: &str, name: &str) -> Result<(Shape, Scheme), HeaderError> {
    let path = Path::new(file);
    let shape = match Model::config_of_json(text, path) {
        Ok(config) => Shape::of_config(&config, name.to_owned()),
        Err(OpenError::Architecture { found, .. }) => other(&object(text)?, found, file, name)?,
        Err(error) => return Err(HeaderError::Config(error)),
    };
    Ok((shape, written(&object(text)?)))
}

fn object(text: &[u8]) -> Result<Map<String, Value>, HeaderError> {
    serde_json::from_slice(text).map_err(|error| {
        HeaderError::Config(OpenError::Json { path: "config.json".into(), why: error.to_string() })
    })
}

/// What the weights are, where none is at hand.
fn written(root: &Map<String, Value>) -> Scheme {
    let text = root.get("text_config").and_then(Value::as_object);
    let get = |key: &str| root.get(key).or_else(|| text.and_then(|text| text.get(key)));
    let quantized = get("quantization_config").and_then(Value::as_object).and_then(quantized);
    let float = match get("dtype").or_else(|| get("torch_dtype")).and_then(Value::as_str) {
        Some("float32") => "f32",
        Some("float16") => "f16",
        _ => "bf16",
    };
    quantized.unwrap_or(float).parse().expect("the names are those of the table")
}

fn quantized(config: &Map<String, Value>) -> Option<&'static str> {
    let groups = config.get("config_groups").and_then(Value::as_object);
    let group = groups.and_then(|groups| groups.values().next());
    let weights = group.and_then(|group| group.get("weights"));
    let float = weights.and_then(|weights| weights.get("type")).and_then(Value::as_str) == Some("float");
    let activations =
        group.and_then(|group| group.get("input_activations")).is_some_and(|value| !value.is_null());
    let bits = weights.and_then(|weights| weights.get("num_bits")).or_else(|| config.get("bits"));
    let method = config.get("quant_method").and_then(Value::as_str);
    match (method, bits.and_then(Value::as_u64)) {
        (Some("fp8" | "fbgemm_fp8"), _) => Some("fp8"),
        (_, Some(8)) if float => Some("fp8"),
        (_, Some(8)) if activations => Some("int8"),
        (_, Some(8)) => Some("int8-weight"),
        (_, Some(4)) => Some("int4"),
        _ => None,
    }
}

/// An architecture that Wharf does not serve, mixtures of experts among them.
fn other(
    root: &Map<String, Value>,
    architecture: String,
    file: &str,
    name: &str,
) -> Result<Shape, HeaderError> {
    let text = root.get("text_config").and_then(Value::as_object);
    let find = |key: &str| {
        let value = text.and_then(|text| text.get(key)).or_else(|| root.get(key));
        value.and_then(Value::as_u64).filter(|n| *n < 1 << 32)
    };
    let any = |keys: &[&str]| keys.iter().find_map(|key| find(key));
    let need = |keys: &[&str]| {
        let missing = || HeaderError::Missing { name: file.to_owned(), key: keys[0].to_owned() };
        any(keys).ok_or_else(missing)
    };
    let hidden_size = need(&["hidden_size", "n_embd"])?;
    let n_heads = need(&["num_attention_heads", "n_head"])?;
    let ffn_size = any(&["intermediate_size", "n_inner"]).unwrap_or(4 * hidden_size);
    let count = any(&["num_local_experts", "num_experts", "n_routed_experts"]).filter(|count| *count > 1);
    let experts = count.map(|count| {
        let inner = find("moe_intermediate_size").unwrap_or(ffn_size);
        let shared = find("shared_expert_intermediate_size")
            .or_else(|| find("n_shared_experts").map(|n| n.saturating_mul(inner)));
        Experts {
            count,
            active: any(&["num_experts_per_tok", "experts_per_token", "moe_topk"]).unwrap_or(1).min(count),
            ffn_size: inner,
            shared_ffn_size: shared.unwrap_or(0),
            dense_layers: find("first_k_dense_replace").unwrap_or(0),
        }
    });
    let tied = root.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false);
    Ok(Shape {
        name: name.to_owned(),
        architecture,
        served: false,
        n_layers: need(&["num_hidden_layers", "n_layer"])?,
        hidden_size,
        ffn_size,
        n_heads,
        n_kv_heads: any(&["num_key_value_heads", "num_kv_heads"]).unwrap_or(n_heads),
        head_dim: find("head_dim").unwrap_or(hidden_size / n_heads.max(1)),
        vocab_size: need(&["vocab_size"])?,
        context_length: any(&["max_position_embeddings", "n_positions"]).unwrap_or(2048),
        tied_embeddings: tied,
        norms_per_layer: 2 * hidden_size,
        experts,
        stored: Default::default(),
    })
}
