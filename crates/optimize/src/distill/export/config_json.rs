//! Decides what config.json says of a student: what it says of the teacher, with the student's sizes.

use std::path::Path;

use serde_json::{Map, Value, json};
use wharf_model::ModelConfig;

use crate::distill::error::DistillError;

/// Reads a config.json that the user gave for the student.
pub(super) fn read(path: &Path) -> Result<Map<String, Value>, DistillError> {
    let bytes = std::fs::read(path).map_err(DistillError::read(path))?;
    let wrong = |why: String| DistillError::Input(format!("failed to parse {}: {why}", path.display()));
    match serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))? {
        Value::Object(object) => Ok(object),
        _ => Err(wrong("expected an object".into())),
    }
}

/// The student is written in F32, whatever the teacher was, and is no longer what came from the teacher's repository.
pub(super) fn forget_origin(root: &mut Map<String, Value>) {
    for key in ["torch_dtype", "dtype"] {
        if root.contains_key(key) {
            root.insert(key.to_owned(), json!("float32"));
        }
    }
    for key in ["_name_or_path", "quantization_config"] {
        root.remove(key);
    }
}

/// Puts the student's sizes in the place of the teacher's.
pub(super) fn resize(root: &mut Map<String, Value>, config: &ModelConfig) {
    // A model with a vision part nests what we want.
    let nested = matches!(root.get("text_config"), Some(Value::Object(_)));
    let text = match root.get_mut("text_config") {
        Some(Value::Object(text)) if nested => text,
        _ => root,
    };
    for (key, value) in [
        ("num_hidden_layers", config.layers.len()),
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.ffn_size),
        ("num_attention_heads", config.n_heads),
        ("num_key_value_heads", config.n_kv_heads),
        ("head_dim", config.head_dim),
        ("vocab_size", config.vocab_size),
    ] {
        text.insert(key.to_owned(), json!(value));
    }
    // Which of the remaining layers have a window no longer follows from a pattern.
    if config.layers.iter().any(|layer| layer.window != config.layers[0].window)
        || text.contains_key("layer_types")
    {
        let kind =
            |window: Option<usize>| if window.is_some() { "sliding_attention" } else { "full_attention" };
        let types: Vec<&str> = config.layers.iter().map(|layer| kind(layer.window)).collect();
        text.insert("layer_types".to_owned(), json!(types));
    }
}
