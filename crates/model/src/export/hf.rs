//! Decides what a GGUF file is as a folder that Transformers, vLLM and we ourselves open: config.json and the files of the text
//! side. A folder stays what it is.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{ExportError, Exported, RowOrder, linear_factor, renamed, tokenizer};
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

/// Architectures of which the keys of a Llama say everything.
const SAYABLE: [&str; 4] = ["llama", "qwen2", "qwen3", "phi3"];

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
    let tensors = match &model.source {
        Source::Folder(_) => unchanged(model),
        Source::Gguf(_) => {
            let name = model.config.architecture.as_str();
            let same_numbers = ["llama", "qwen2", "qwen3"].contains(&name);
            let architecture = Architecture::by_gguf(name).filter(|_| same_numbers);
            tensors(model, architecture.ok_or_else(|| unsupported(format!("architecture {name}")))?)?
        }
    };
    Ok(HfExport { config: config_json(model)?, files: text_files(model)?, tensors })
}

/// What config.json says of `model`.
///
/// # Errors
/// As [`to_hf`].
pub fn config_json(model: &Model) -> Result<Map<String, Value>, ExportError> {
    match &model.source {
        Source::Folder(folder) => super::json(&folder.join("config.json")),
        Source::Gguf(metadata) => config(model, metadata),
    }
}

/// The files of the text side of `model` by name: tokenizer, chat template, what ends an answer.
///
/// # Errors
/// As [`to_hf`].
pub fn text_files(model: &Model) -> Result<Vec<(String, Vec<u8>)>, ExportError> {
    match &model.source {
        Source::Folder(folder) => present(folder),
        Source::Gguf(metadata) => {
            let mut files = tokenizer::to_hf(metadata)?;
            let generation = &model.generation;
            let generation = json!({
                "bos_token_id": generation.bos_token_id,
                "eos_token_id": generation.eos_token_ids,
                "pad_token_id": generation.pad_token_id,
            });
            files.push(("generation_config.json".into(), pretty(&generation)));
            Ok(files)
        }
    }
}

/// Those of [`TEXT_SIDE`] that are there.
fn present(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, ExportError> {
    let mut files = Vec::new();
    for name in TEXT_SIDE {
        let path = folder.join(name);
        match fs::read(&path) {
            Ok(bytes) => files.push((name.to_owned(), bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(ExportError::Read { path: path.display().to_string(), source }),
        }
    }
    Ok(files)
}

fn unchanged(model: &Model) -> Vec<Exported> {
    let uses = model.weights.uses();
    let tensors = model.weights.tensors().map(|source| {
        let (layer, roles) = uses.get(source.name.as_str()).cloned().unwrap_or_default();
        Exported { name: source.name.clone(), source: source.clone(), order: RowOrder::Same, layer, roles }
    });
    tensors.collect()
}

pub(super) fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("JSON values can be written");
    text.push(b'\n');
    text
}

fn config(model: &Model, metadata: &Metadata) -> Result<Map<String, Value>, ExportError> {
    let config = &model.config;
    let name = config.architecture.as_str();
    let architecture = Architecture::by_gguf(name).filter(|_| SAYABLE.contains(&name));
    let architecture = architecture.ok_or_else(|| unsupported(format!("architecture {name}")))?;
    let [rope] = &config.ropes[..] else { return Err(unsupported("a model with several rotary embeddings")) };
    let key = |suffix: &str| format!("{}.{suffix}", config.architecture);
    let theta = metadata.f64(&key("rope.freq_base")).unwrap_or(10_000.0);
    if rope.dim != config.head_dim {
        return Err(unsupported("a model that rotates a part of each head"));
    }
    if config.layers.iter().any(|layer| layer.window.is_some()) {
        return Err(unsupported("a model whose layers see only a window"));
    }
    let scaling = linear_factor(rope, theta, unsupported)?
        .map(|factor| json!({"rope_type": "linear", "factor": shortest(factor as f32)}));
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
        "rms_norm_eps": shortest(config.norm_eps),
        "rope_theta": theta,
        "rope_scaling": scaling,
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

/// The shortest decimal that is this float: 1e-5 and not 9.999999747378752e-6.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().expect("a float's own text is a number")
}

fn tensors(model: &Model, architecture: &Architecture) -> Result<Vec<Exported>, ExportError> {
    let rotated = match model.config.rope_layout {
        RopeLayout::Interleaved => RowOrder::Separate { head_dim: model.config.head_dim },
        RopeLayout::Halves => RowOrder::Same,
    };
    renamed(model, architecture, rotated, TensorRule::hf_name, unsupported)
}
