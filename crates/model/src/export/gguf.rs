//! Decides what a Hugging Face folder is as a GGUF file: keys of the GGUF specification, names and order of rows as llama.cpp's
//! converter has them.

use std::path::Path;

use serde_json::{Map, Value};

use super::{ExportError, Exported, GgufExport, RowOrder, json, linear_factor, renamed};
use crate::arch::{Architecture, TensorRule};
use crate::config::ModelConfig;
use crate::gguf::write::Entry;
use crate::open::Model;

/// Architectures whose numbers are the same in both formats; Gemma shifts norms, Phi-3 fuses matrices.
const SAME_NUMBERS: [&str; 3] = ["llama", "qwen2", "qwen3"];

pub(super) fn unsupported(what: impl Into<String>) -> ExportError {
    ExportError::Unsupported {
        what: what.into(),
        format: "GGUF",
        instead: "convert the model with llama.cpp's convert_hf_to_gguf.py first",
    }
}

/// `text` are the entries of its text side.
pub(super) fn from_folder(model: &Model, folder: &Path, text: Vec<Entry>) -> Result<GgufExport, ExportError> {
    let root = json(&folder.join("config.json"))?;
    let ModelConfig { architecture: class, .. } = &model.config;
    let architecture = Architecture::by_hf_class(class)
        .or_else(|| Architecture::by_hf_model_type(class))
        .ok_or_else(|| unsupported(format!("architecture {class}")))?;
    // Mistral calls itself llama there.
    let name = architecture.gguf.unwrap_or("llama");
    if !SAME_NUMBERS.contains(&name) {
        return Err(unsupported(format!("architecture {class}")));
    }
    let mut entries = shape(model, name, &root)?;
    entries.extend(text);
    Ok(GgufExport { entries, tensors: tensors(model, architecture, name)? })
}

fn shape(model: &Model, name: &str, root: &Map<String, Value>) -> Result<Vec<Entry>, ExportError> {
    let config = &model.config;
    if config.layers.iter().any(|layer| layer.window.is_some()) {
        return Err(unsupported("a model whose layers see only a window"));
    }
    let key = |suffix: &str| format!("{name}.{suffix}");
    let number = |suffix: &str, n: usize| Entry::new(key(suffix), u32::try_from(n).unwrap_or(u32::MAX));
    let [rope] = &config.ropes[..] else {
        return Err(unsupported("a model with several rotary embeddings"));
    };
    let theta = theta(root);
    let mut entries = vec![
        Entry::new("general.architecture", name),
        Entry::new("general.type", "model"),
        Entry::new("general.name", model.info.name.as_str()),
        number("block_count", config.layers.len()),
        number("context_length", config.context_length),
        number("embedding_length", config.hidden_size),
        number("feed_forward_length", config.ffn_size),
        number("attention.head_count", config.n_heads),
        number("attention.head_count_kv", config.n_kv_heads),
        number("attention.key_length", config.head_dim),
        number("attention.value_length", config.head_dim),
        Entry::new(key("attention.layer_norm_rms_epsilon"), config.norm_eps),
        number("rope.dimension_count", rope.dim),
        Entry::new(key("rope.freq_base"), theta as f32),
        number("vocab_size", config.vocab_size),
    ];
    if let Some(factor) = linear_factor(rope, theta, unsupported)? {
        entries.push(Entry::new(key("rope.scaling.type"), "linear"));
        entries.push(Entry::new(key("rope.scaling.factor"), factor as f32));
    }
    Ok(entries)
}

/// The base of the rotations, where either generation of Transformers keeps it.
fn theta(root: &Map<String, Value>) -> f64 {
    let nested = root.get("rope_parameters").and_then(|parameters| parameters.get("rope_theta"));
    nested.or_else(|| root.get("rope_theta")).and_then(Value::as_f64).unwrap_or(10_000.0)
}

fn tensors(model: &Model, architecture: &Architecture, name: &str) -> Result<Vec<Exported>, ExportError> {
    let rotated = match name {
        "llama" => RowOrder::Interleave { head_dim: model.config.head_dim },
        _ => RowOrder::Same,
    };
    let name = |rule: &TensorRule| rule.gguf.to_owned();
    let mut tensors = renamed(model, architecture, rotated, name, unsupported)?;
    // llama.cpp reads a file fastest in the order in which layers are computed.
    tensors.sort_by_key(|tensor| (tensor.layer.is_some(), tensor.layer, tensor.roles[0]));
    Ok(tensors)
}
