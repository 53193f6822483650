//! Decides what config.json says of a student: the teacher's own with other sizes, or a new one for a GGUF teacher.

use std::path::Path;

use serde_json::{Map, Value, json};
use wharf_model::arch::Architecture;
use wharf_model::config::Activation;
use wharf_model::gguf::Metadata;
use wharf_model::{ModelConfig, Source};

use super::Described;
use crate::distill::error::DistillError;

/// The config.json of a student.
pub(super) fn describe(config: &ModelConfig, described: Described<'_>) -> Result<Value, DistillError> {
    if let Some(path) = described.config_json {
        let mut root = read(path)?;
        forget_type(&mut root);
        return Ok(Value::Object(root));
    }
    match described.teacher {
        Source::Folder(folder) => {
            let mut root = read(&folder.join("config.json"))?;
            resize(&mut root, config);
            Ok(Value::Object(root))
        }
        Source::Gguf(metadata) => from_gguf(config, metadata),
    }
}

fn read(path: &Path) -> Result<Map<String, Value>, DistillError> {
    let bytes = std::fs::read(path).map_err(DistillError::read(path))?;
    let wrong = |why: String| DistillError::Input(format!("failed to parse {}: {why}", path.display()));
    match serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))? {
        Value::Object(object) => Ok(object),
        _ => Err(wrong("expected an object".into())),
    }
}

/// The student is written in F32, whatever the teacher was.
fn forget_type(root: &mut Map<String, Value>) {
    for key in ["torch_dtype", "dtype"] {
        if root.contains_key(key) {
            root.insert(key.to_owned(), json!("float32"));
        }
    }
    root.remove("_name_or_path");
}

fn resize(root: &mut Map<String, Value>, config: &ModelConfig) {
    forget_type(root);
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

/// A config.json for what a GGUF file describes.
fn from_gguf(config: &ModelConfig, metadata: &Metadata) -> Result<Value, DistillError> {
    let architecture = Architecture::of(config).expect("opening the model found its architecture");
    let name = &config.architecture;
    let theta = metadata.f64(&format!("{name}.rope.freq_base")).unwrap_or(10_000.0);
    let mut root = json!({
        "architectures": [architecture.hf_classes[0]],
        "model_type": architecture.hf_model_types[0],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size,
        "num_hidden_layers": config.layers.len(),
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": match config.activation {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
            Activation::GeluErf => "gelu",
        },
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": shortest(config.norm_eps),
        "rope_theta": theta,
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": "float32",
        "use_cache": true,
    });
    let object = root.as_object_mut().expect("made as an object");
    for (key, suffix) in [
        ("bos_token_id", "bos_token_id"),
        ("eos_token_id", "eos_token_id"),
        ("pad_token_id", "padding_token_id"),
    ] {
        if let Some(id) = metadata.u64(&format!("tokenizer.ggml.{suffix}")) {
            object.insert(key.to_owned(), json!(id));
        }
    }
    if let Some(factor) = metadata.f64(&format!("{name}.rope.scaling.factor"))
        && metadata.str(&format!("{name}.rope.scaling.type")) == Some("linear")
    {
        object.insert("rope_scaling".to_owned(), json!({"rope_type": "linear", "factor": factor}));
    }
    Ok(root)
}

/// The shortest decimal that is this float: 1e-5 and not 9.999999747378752e-6.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().expect("a float's own text is a number")
}
