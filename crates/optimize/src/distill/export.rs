//! Writes a student as a model that others load: a folder as Hugging Face lays it out.
//!
//! Whatever is written is opened again and compared with what it should be before it gets its name, so a shape that the format
//! cannot say is an error here and not a wrong answer later.

mod config_json;
mod tokenizer_json;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, View};
use wharf_model::arch::Architecture;
use wharf_model::{Model, ModelConfig, Role, Source};

use super::checkpoint::into_io;
use super::error::DistillError;
use super::parameters::Parameters;

/// Files of a teacher's folder that say how text becomes tokens; copied as they are.
const TEXT_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// Where a student's shape and text side are described already.
#[derive(Clone, Copy)]
pub(super) struct Described<'a> {
    /// The teacher.
    pub(super) teacher: &'a Source,
    /// A config.json that has the student's shape already.
    pub(super) config_json: Option<&'a Path>,
}

/// Writes config.json into `folder` and reads it back: an error when it cannot say what the student is.
pub(super) fn config(
    folder: &Path,
    student: &ModelConfig,
    described: Described<'_>,
) -> Result<ModelConfig, DistillError> {
    std::fs::create_dir_all(folder).map_err(DistillError::write(folder))?;
    let path = folder.join("config.json");
    let text = serde_json::to_string_pretty(&config_json::describe(student, described)?);
    let text = text.expect("a JSON value has a text") + "\n";
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

/// Writes config.json and model.safetensors into `folder`.
pub(super) fn model(
    folder: &Path,
    student: &Parameters,
    described: Described<'_>,
) -> Result<(), DistillError> {
    let written = config(folder, &student.config, described)?;
    weights(&folder.join("model.safetensors"), student, written.norm_offset)
}

/// Writes config.json and model.safetensors into `folder`, and the tokenizer's files when the teacher has them as files.
///
/// Gives the notes that a person should read.
pub(super) fn folder(
    folder: &Path,
    student: &Parameters,
    described: Described<'_>,
) -> Result<Vec<String>, DistillError> {
    model(folder, student, described)?;
    match described.teacher {
        Source::Folder(source) => {
            for name in TEXT_FILES {
                let (from, to) = (source.join(name), folder.join(name));
                if from.is_file() {
                    std::fs::copy(&from, &to).map_err(DistillError::write(&to))?;
                }
            }
            Ok(Vec::new())
        }
        Source::Gguf(metadata) => match tokenizer_json::convert(metadata) {
            Ok(files) => {
                for (name, value) in
                    [("tokenizer.json", files.tokenizer), ("tokenizer_config.json", files.config)]
                {
                    let path = folder.join(name);
                    std::fs::write(&path, value.to_string()).map_err(DistillError::write(&path))?;
                }
                Ok(Vec::new())
            }
            Err(why) => Ok(vec![format!(
                "the tokenizer of the GGUF teacher is left out, because {why}; put the tokenizer files of the original model \
                 beside the weights"
            )]),
        },
    }
}

/// A tensor that is written from the rows of one or more weights.
struct Rows<'a> {
    shape: Vec<usize>,
    parts: Vec<&'a [f32]>,
    /// Taken off every number (norms that are stored less one).
    offset: f32,
}

impl View for Rows<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let numbers = self.parts.iter().copied().flatten();
        Cow::Owned(numbers.flat_map(|x| (x - self.offset).to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        self.parts.iter().map(|part| part.len() * 4).sum()
    }
}

/// `norm_offset` is taken off norms, as the architecture stores them.
fn weights(path: &Path, student: &Parameters, norm_offset: f32) -> Result<(), DistillError> {
    let architecture = Architecture::of(&student.config).expect("opening the model found its architecture");
    let mut tensors: Vec<(String, Rows<'_>)> = Vec::new();
    for parameter in &student.list {
        let (name, _) =
            architecture.tensor_names(parameter.key.role).expect("the role was read by this name");
        let name = match parameter.key.layer {
            Some(layer) => format!("model.{}", name.replace("{}", &layer.to_string())),
            None if parameter.key.role == Role::Output => name.to_owned(),
            None => format!("model.{name}"),
        };
        match tensors.iter_mut().find(|(other, _)| *other == name) {
            // Fused projections; keys ascend in the order of roles, which is that of the rows.
            Some((_, rows)) => {
                rows.shape[0] += parameter.rows;
                rows.parts.push(&parameter.data);
            }
            None => {
                let shape = if parameter.rows == 1 {
                    vec![parameter.cols]
                } else {
                    vec![parameter.rows, parameter.cols]
                };
                let offset = if parameter.key.role.is_norm() { norm_offset } else { 0.0 };
                tensors.push((name, Rows { shape, parts: vec![&parameter.data], offset }));
            }
        }
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path)
        .map_err(|error| DistillError::Write { path: path.to_owned(), source: into_io(error) })
}

/// Makes a folder of results the final one: it appears whole or not at all.
pub(super) fn publish(partial: &Path, out: &Path) -> Result<(), DistillError> {
    for entry in std::fs::read_dir(partial).map_err(DistillError::read(partial))? {
        let path: PathBuf = entry.map_err(DistillError::read(partial))?.path();
        let file = std::fs::File::open(&path).map_err(DistillError::read(&path))?;
        file.sync_all().map_err(DistillError::write(&path))?;
    }
    std::fs::rename(partial, out).map_err(DistillError::write(out))
}
