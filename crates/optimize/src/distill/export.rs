//! Writes a student as a model that others load: a folder as Hugging Face lays it out, or a GGUF file in a folder.
//!
//! Whatever is written is opened again and compared with what it should be before it gets its name, so a shape that the format
//! cannot say is an error here and not a wrong answer later.

mod config_json;
mod gguf_file;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wharf_model::arch::Architecture;
use wharf_model::export::{self, ExportError};
use wharf_model::gguf::write::Entry;
use wharf_model::safetensors::write::{NewTensor, layout};
use wharf_model::{Model, ModelConfig};

use super::error::DistillError;
use super::parameters::Parameters;
use super::student::Student;

/// What a student is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// config.json, model.safetensors and the tokenizer's files.
    #[default]
    Safetensors,
    /// model.gguf, which has everything in it.
    Gguf,
}

impl Format {
    /// The file with the weights.
    pub(super) fn weights(self) -> &'static str {
        match self {
            Format::Safetensors => "model.safetensors",
            Format::Gguf => "model.gguf",
        }
    }
}

/// Everything that a student's files say besides its numbers.
pub(super) struct Described {
    /// config.json, of the student's own shape or the teacher's.
    config: Map<String, Value>,
    has_own_shape: bool,
    text: Text,
    /// What a GGUF file calls the student.
    name: String,
}

/// The teacher's text side in the format of the student.
enum Text {
    /// Without an error the files by name.
    Files(Result<Vec<(String, Vec<u8>)>, ExportError>),
    Entries(Vec<Entry>),
}

impl Described {
    /// Reads it off the teacher, before hours of training: what cannot be said in `format` is an error now.
    pub(super) fn read(
        teacher: &Model,
        student: &Student,
        format: Format,
        out: &Path,
    ) -> Result<Described, DistillError> {
        let fail = |source| DistillError::Export { source };
        let (mut config, has_own_shape) = match student {
            Student::Fresh(path) => (config_json::read(path)?, true),
            Student::Pruned { .. } | Student::Model(_) => {
                (export::config_json(teacher).map_err(fail)?, false)
            }
        };
        config_json::forget_origin(&mut config);
        let text = match format {
            Format::Safetensors => Text::Files(export::text_files(teacher)),
            Format::Gguf => Text::Entries(export::gguf_text(teacher).map_err(fail)?),
        };
        let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Described { config, has_own_shape, text, name })
    }
}

/// Writes config.json into `folder` and reads it back: an error when it cannot say what the student is.
fn config(folder: &Path, student: &ModelConfig, described: &Described) -> Result<ModelConfig, DistillError> {
    std::fs::create_dir_all(folder).map_err(DistillError::write(folder))?;
    let path = folder.join("config.json");
    let mut root = described.config.clone();
    if !described.has_own_shape {
        config_json::resize(&mut root, student);
    }
    let text = serde_json::to_string_pretty(&root).expect("a JSON value has a text") + "\n";
    std::fs::write(&path, text).map_err(DistillError::write(&path))?;
    let found = Model::read_config(&path).map_err(|source| DistillError::Open {
        what: "student",
        path: path.clone(),
        source: Box::new(source),
    })?;
    let comparable = ModelConfig {
        architecture: student.architecture.clone(),
        context_length: student.context_length,
        norm_offset: 0.0,
        ..found.clone()
    };
    if comparable != *student {
        return Err(DistillError::Input(format!(
            "a config.json cannot say what the student is: it would be read as {comparable:?}, but the student is {student:?}"
        )));
    }
    Ok(found)
}

/// Finds out whether the student can be written, and leaves nothing.
pub(super) fn rehearse(
    folder: &Path,
    student: &Parameters,
    described: &Described,
) -> Result<(), DistillError> {
    match described.text {
        Text::Files(_) => config(folder, &student.config, described).map(drop)?,
        // Only with tensors is it known what the format makes of them.
        Text::Entries(_) => self::folder(folder, student, described).map(drop)?,
    }
    std::fs::remove_dir_all(folder).map_err(DistillError::write(folder))
}

/// Writes config.json and model.safetensors into `folder`.
pub(super) fn model(folder: &Path, student: &Parameters, described: &Described) -> Result<(), DistillError> {
    let written = config(folder, &student.config, described)?;
    weights(&folder.join(Format::Safetensors.weights()), student, written.norm_offset)
}

/// Writes the student and its text side into `folder`. Gives the notes that a person should read.
pub(super) fn folder(
    folder: &Path,
    student: &Parameters,
    described: &Described,
) -> Result<Vec<String>, DistillError> {
    match &described.text {
        Text::Files(files) => {
            model(folder, student, described)?;
            match files {
                Ok(files) => {
                    for (name, bytes) in files {
                        let path = folder.join(name);
                        std::fs::write(&path, bytes).map_err(DistillError::write(&path))?;
                    }
                    Ok(Vec::new())
                }
                Err(why) => Ok(vec![format!(
                    "the tokenizer is left out ({why}); put the tokenizer files of the original model beside the weights, \
                     or take --format gguf"
                )]),
            }
        }
        Text::Entries(text) => {
            let plain = folder.join("safetensors");
            model(&plain, student, described)?;
            gguf_file::write(&plain, &folder.join(Format::Gguf.weights()), &described.name, text.clone())?;
            std::fs::remove_dir_all(&plain).map_err(DistillError::write(&plain))?;
            Ok(Vec::new())
        }
    }
}

/// A tensor that is written from the rows of one or more weights.
struct Rows<'a> {
    parts: Vec<&'a [f32]>,
    /// Taken off every number (norms that are stored less one).
    offset: f32,
}

/// `norm_offset` is taken off norms, as the architecture stores them.
fn weights(path: &Path, student: &Parameters, norm_offset: f32) -> Result<(), DistillError> {
    let architecture = Architecture::of(&student.config).expect("opening the model found its architecture");
    let mut new: Vec<NewTensor> = Vec::new();
    let mut rows: Vec<Rows<'_>> = Vec::new();
    for parameter in &student.list {
        let name = architecture
            .hf_tensor(parameter.key.layer, parameter.key.role)
            .expect("the role was read by this name");
        let bytes = parameter.data.len() as u64 * 4;
        match new.iter().position(|other| other.name == name) {
            // Fused projections; keys ascend in the order of roles, which is that of the rows.
            Some(index) => {
                new[index].shape[0] += parameter.rows;
                new[index].bytes += bytes;
                rows[index].parts.push(&parameter.data);
            }
            None => {
                let shape = if parameter.rows == 1 {
                    vec![parameter.cols]
                } else {
                    vec![parameter.rows, parameter.cols]
                };
                let offset = if parameter.key.role.is_norm() { norm_offset } else { 0.0 };
                new.push(NewTensor { name, dtype: "F32", shape, bytes });
                rows.push(Rows { parts: vec![&parameter.data], offset });
            }
        }
    }
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&layout(&new).header)?;
        for Rows { parts, offset } in &rows {
            for x in parts.iter().copied().flatten() {
                file.write_all(&(x - offset).to_le_bytes())?;
            }
        }
        file.flush()
    };
    write().map_err(DistillError::write(path))
}

/// Makes a folder of results the final one: it appears whole or not at all.
pub(super) fn publish(partial: &Path, out: &Path) -> Result<(), DistillError> {
    for entry in std::fs::read_dir(partial).map_err(DistillError::read(partial))? {
        let path: PathBuf = entry.map_err(DistillError::read(partial))?.path();
        let file = File::open(&path).map_err(DistillError::read(&path))?;
        file.sync_all().map_err(DistillError::write(&path))?;
    }
    std::fs::rename(partial, out).map_err(DistillError::write(out))
}
