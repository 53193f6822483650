//! Decides what a checkpoint looks like in the other format: names, order of rows, metadata.
//!
//! Data is not touched here: whoever writes the file reads each row of a tensor where [`Exported::row`] says.

mod gguf;
mod hf;
mod rows;
mod template;
#[cfg(test)]
mod tests;
mod tokenizer;

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::arch::{Architecture, TensorRule};
use crate::config::RopeConfig;
use crate::gguf::GgufError;
use crate::gguf::write::{Entry, entries};
use crate::mmap::MappedFile;
use crate::open::{Model, Source};
use crate::role::Role;
use crate::weights::StoredTensor;
pub use hf::{HfExport, config_json, text_files, to_hf};
pub use rows::RowOrder;

/// Why a model cannot be written in a format.
#[derive(Debug, Error)]
pub enum ExportError {
    /// A file that was read before cannot be read again.
    #[error("failed to read {path} again")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A JSON file is not what it was when the model was opened.
    #[error("failed to parse {path}")]
    Json {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The metadata is not what it was when the model was opened.
    #[error("failed to read the metadata of {path}")]
    Gguf {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: GgufError,
    },
    /// Something that the other format cannot say, or that we cannot say in it.
    #[error("{what} cannot be written as {format}; {instead}")]
    Unsupported {
        /// What it is.
        what: String,
        /// The format asked for.
        format: &'static str,
        /// What can be done instead.
        instead: &'static str,
    },
}

/// A tensor under its name in the other format.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Name in the file to be written.
    pub name: String,
    /// Where its elements are now.
    pub source: StoredTensor,
    /// In which order its rows are written.
    pub order: RowOrder,
    /// Layer of a tensor that every layer has.
    pub layer: Option<usize>,
    /// What its rows are for, in their order; empty for what is no weight.
    pub roles: Vec<Role>,
}

impl Exported {
    /// Elements of a row; a vector is one row.
    pub fn cols(&self) -> usize {
        *self.source.shape.last().expect("a tensor has an extent")
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.source.elements() / self.cols()
    }

    /// Whether it is a vector.
    pub fn is_vector(&self) -> bool {
        self.source.shape.len() == 1
    }

    /// The row of the source that is written as row `row`.
    pub fn row(&self, row: usize) -> usize {
        self.order.source(row)
    }
}

/// A GGUF file to be written.
#[derive(Clone, Debug)]
pub struct GgufExport {
    /// The metadata.
    pub entries: Vec<Entry>,
    /// The tensors in the order of the file.
    pub tensors: Vec<Exported>,
}

/// `model` as a GGUF file. One that is GGUF already keeps its metadata byte for byte; parts of a split model become one file.
///
/// # Errors
/// When the files cannot be read again, or the model cannot be said in GGUF.
pub fn to_gguf(model: &Model) -> Result<GgufExport, ExportError> {
    match &model.source {
        Source::Gguf(_) => {
            let mut entries = stored_entries(model)?;
            entries.retain(|entry| !entry.key.starts_with("split."));
            let uses = model.weights.uses();
            let tensors = model.weights.tensors().map(|tensor| {
                let (layer, roles) = uses.get(tensor.name.as_str()).cloned().unwrap_or_default();
                let name = tensor.name.clone();
                Exported { name, source: tensor.clone(), order: RowOrder::Same, layer, roles }
            });
            Ok(GgufExport { entries, tensors: tensors.collect() })
        }
        Source::Folder(folder) => gguf::from_folder(model, folder, tokenizer::to_gguf(folder)?),
    }
}

/// `model`, a folder, as a GGUF file with `text`, that of another model by [`gguf_text`], for its text side. A GGUF file keeps its own.
///
/// # Errors
/// As [`to_gguf`].
pub fn to_gguf_with(model: &Model, text: Vec<Entry>) -> Result<GgufExport, ExportError> {
    match &model.source {
        Source::Folder(folder) => gguf::from_folder(model, folder, text),
        Source::Gguf(_) => to_gguf(model),
    }
}

/// The entries of a model's text side: those of a GGUF file as they are, whatever kind of tokenizer they describe.
///
/// # Errors
/// As [`to_gguf`].
pub fn gguf_text(model: &Model) -> Result<Vec<Entry>, ExportError> {
    match &model.source {
        Source::Gguf(_) => {
            let mut entries = stored_entries(model)?;
            entries.retain(|entry| entry.key.starts_with("tokenizer."));
            Ok(entries)
        }
        Source::Folder(folder) => tokenizer::to_gguf(folder),
    }
}

/// The metadata of a model that is a GGUF file.
fn stored_entries(model: &Model) -> Result<Vec<Entry>, ExportError> {
    let file = &model.info.files[0];
    let path = || file.display().to_string();
    let map = MappedFile::open(file).map_err(|source| ExportError::Read { path: path(), source })?;
    entries(&map).map_err(|source| ExportError::Gguf { path: path(), source })
}

/// Every weight under the name that its rule gets, `{}` being the layer; what is rotated has its rows in the order `rotated`. What
/// is no weight (factors and frequencies of rotations) follows from the configuration.
fn renamed(
    model: &Model,
    architecture: &Architecture,
    rotated: RowOrder,
    name: impl Fn(&TensorRule) -> String,
    unsupported: fn(String) -> ExportError,
) -> Result<Vec<Exported>, ExportError> {
    let rules = architecture.rules();
    let uses = model.weights.uses();
    let mut tensors = Vec::new();
    for source in model.weights.tensors() {
        let Some((layer, roles)) = uses.get(source.name.as_str()) else { continue };
        let [role] = roles[..] else {
            return Err(unsupported(format!("tensor {:?}, which fuses several matrices,", source.name)));
        };
        let rule = rules.iter().find(|rule| rule.role == role).expect("roles were bound by these rules");
        let layer_text = layer.map(|layer| layer.to_string()).unwrap_or_default();
        let name = name(rule).replace("{}", &layer_text);
        let order = match role {
            Role::Q | Role::K | Role::QBias | Role::KBias => rotated,
            _ => RowOrder::Same,
        };
        tensors.push(Exported { name, source: source.clone(), order, layer: *layer, roles: vec![role] });
    }
    Ok(tensors)
}

/// By how much all rotations are slowed down; `None` for those that are not.
fn linear_factor(
    rope: &RopeConfig,
    theta: f64,
    unsupported: fn(String) -> ExportError,
) -> Result<Option<f64>, ExportError> {
    let factor =
        |(pair, inv_freq): (usize, &f64)| theta.powf(-2.0 * pair as f64 / rope.dim as f64) / inv_freq;
    let factors: Vec<f64> = rope.inv_freq.iter().enumerate().map(factor).collect();
    let first = factors[0];
    let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-6;
    if rope.amplitude != 1.0 || !factors.iter().all(|factor| near(*factor, first)) {
        return Err(unsupported("a rotary embedding whose scaling differs from pair to pair".into()));
    }
    Ok((!near(first, 1.0)).then_some(first))
}

fn bytes(object: &Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(object).expect("JSON values can be written")
}

/// The object in a JSON file that has been read before.
fn json(path: &Path) -> Result<Map<String, Value>, ExportError> {
    let bytes = std::fs::read(path)
        .map_err(|source| ExportError::Read { path: path.display().to_string(), source })?;
    serde_json::from_slice(&bytes)
        .map_err(|source| ExportError::Json { path: path.display().to_string(), source })
}

/// As [`json`]; `None` when there is no such file.
fn optional_json(path: &Path) -> Result<Option<Map<String, Value>>, ExportError> {
    match json(path) {
        Err(ExportError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}
