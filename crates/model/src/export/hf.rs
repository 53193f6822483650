//! Decides what a GGUF file is as a folder that Transformers, vLLM and we ourselves open: config.json and the files of the text
//! side. A folder stays what it is.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{ExportError, Exported, RowOrder, renamed, tokenizer};
use crate::arch::{Architecture, TensorRule};
use crate::config::{Activation, RopeLayout};
use crate::gguf::Metadata;
use crate::open::{Model, Source};
use crate::role::Role;

/// A Hugging Face folder to be written.
#[derive(Clone, Debug)]
pub struct HfExport {
    /// config.json.
    pub config: Map<String, Value>,
    /// Other small files, by name.
    pub files: Vec<(String, Vec<u8>)>,
    /// The tensors in the order of the file.
    pub tensors: Vec<Exported>,
}

/// Files beside the weights that belong to a model.
const TEXT_SIDE: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "generation_config.json",
    "chat_template.jinja",
];

pub(super) fn unsupported(what: impl Into<String>) -> ExportError {
    ExportError::Unsupported {
        what: what.into(),
        format: "a Hugging Face folder",
        instead: "start from the safetensors that it was made from",
    }
}

/// `model` as a Hugging Face folder.
///
/// # Errors
/// When its files cannot be read again, or the model cannot be said in this format.
pub fn to_hf(model: &Model) -> Result<HfExport, ExportError> {
    match &model.source {
        Source::Folder(folder) => from_folder(model, folder),
        Source::Gguf(metadata) => from_gguf(model, metadata),
    }
}

fn from_folder(model: &Model, folder: &Path) -> Result<HfExport, ExportError> {
    let mut files = Vec::new();
    for name in TEXT_SIDE {
        let path = folder.join(name);
        match fs::read(&path) {
            Ok(bytes) => files.push((name.to_owned(), bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(ExportError::Read { path: path.display().to_string(), source }),
        }
    }
    let uses = model.weights.uses();
    let tensors = model.weights.tensors().map(|source| {
        let (layer, roles) = uses.get(source.name.as_str()).cloned().unwrap_or_default();
        Exported { name: source.name.clone(), source: source.clone(), order: RowOrder::Same, layer, roles }
    });
    Ok(HfExport { config: super::json(&folder.join("config.json"))?, files, tensors: tensors.collect() })
}

fn from_gguf(model: &Model, metadata: &Metadata) -> Result<HfExport, ExportError> {
    let name = model.config.architecture.as_str();
    let architecture = match name {
        "llama" | "qwen2" | "qwen3" => Architecture::by_gguf(name),
        _ => None,
    };
    let architecture = architecture.ok_or_else(|| unsupported(format!("architecture {name}")))?;
    let config = config(model, metadata, architecture)?;
    let mut files = tokenizer::to_hf(metadata)?;
    let generation = &model.generation;
    let generation = json!({
        "bos_token_id": generation.bos_token_id,
        "eos_token_id": generation.eos_token_ids,
        "pad_token_id": generation.pad_token_id,
    });
    files.push(("generation_config.json".into(), pretty(&generation)));
    Ok(HfExport { config, files, tensors: tensors(model, architecture)? })
}

pub(super) fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("JSON values can be written");
    text.push(b'\n');
    text
}

fn config(
    model: &Model,
    metadata: &Metadata,
    architecture: &Architecture,
) -> Result<Map<String, Value>, ExportError> {
    let config = &model.config;
    let [rope] = &config.ropes[..] else { return Err(unsupported("a model with several rotary embeddings")) };
    let key = |suffix: &str| format!("{}.{suffix}", config.architecture);
    let theta = metadata.f64(&key("rope.freq_base")).unwrap_or(10_000.0);
    let plain = |(pair, inv_freq): (usize, &f64)| {
        (theta.powf(-2.0 * pair as f64 / rope.dim as f64) / inv_freq - 1.0).abs() < 1e-6
    };
    let simple = rope.amplitude == 1.0
        && rope.dim == config.head_dim
        && rope.inv_freq.iter().enumerate().all(plain)
        && config.layers.iter().all(|layer| layer.window.is_none());
    if !simple {
        return Err(unsupported("a model with scaled rotations or windows"));
    }
    let biased = model.weights.optional(Some(0), Role::OBias).is_some();
    let activation = match config.activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::GeluErf => "gelu",
    };
    let eos = match model.generation.eos_token_ids[..] {
        [one] => json!(one),
        [] => Value::Null,
        ref several => json!(several),
    };
    let value = json!({
        "architectures": [architecture.hf_classes[0]],
        "model_type": architecture.hf_model_types[0],
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size,
        "num_hidden_layers": config.layers.len(),
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": activation,
        "rms_norm_eps": f64::from(config.norm_eps),
        "rope_theta": theta,
        "attention_bias": biased,
        "attention_dropout": 0.0,
        "mlp_bias": false,
        "tie_word_embeddings": config.tied_embeddings,
        "bos_token_id": model.generation.bos_token_id,
        "eos_token_id": eos,
        "pad_token_id": model.generation.pad_token_id,
        "torch_dtype": "bfloat16",
        "use_cache": true,
    });
    match value {
        Value::Object(object) => Ok(object),
        _ => unreachable!("an object was written"),
    }
}

fn tensors(model: &Model, architecture: &Architecture) -> Result<Vec<Exported>, ExportError> {
    let rotated = match model.config.rope_layout {
        RopeLayout::Interleaved => RowOrder::Separate { head_dim: model.config.head_dim },
        RopeLayout::Halves => RowOrder::Same,
    };
    let name = |rule: &TensorRule| match rule.role {
        Role::Output => rule.hf.to_owned(),
        _ => format!("model.{}", rule.hf),
    };
    renamed(model, architecture, rotated, name, unsupported)
}
