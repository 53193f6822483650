//! Decides how a model that is cut for a tensor-parallel group lies in a folder: `manifest.json`, one file of weights for each
//! rank, and what tokenizer and chat template are read from. A rank reads its own file and nothing of the others'.
//!
//! The manifest says what the model is, what each rank holds, and where in its file. It is foreign when it is read again: shapes
//! are compared with what the plan implies, and places with the file's length.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{RankShare, ShardPlan};
use crate::config::ModelConfig;
use crate::generation::GenerationDefaults;
use crate::gguf;
use crate::mmap::MappedFile;
use crate::open::{Format, Model, Source, SourceInfo};
use crate::role::Role;
use crate::weights::{CutView, RankTensor, Weights, WeightsError};

/// Name of the manifest.
pub const MANIFEST: &str = "manifest.json";
/// A GGUF file without tensors, for tokenizer and chat template.
const HEADER: &str = "header.gguf";
/// Version of all of this.
const VERSION: u32 = 1;
/// Where tensors begin.
const ALIGN: usize = 64;

/// What a rank's part was cut from, for the group to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What all ranks hold.
    pub plan: ShardPlan,
    /// Which one this is.
    pub rank: usize,
    /// Digest of the whole model.
    pub model: [u8; 32],
}

/// `manifest.json`.
#[derive(Serialize, Deserialize)]
struct Manifest {
    version: u32,
    name: String,
    /// Of the whole model, in hex.
    model: String,
    plan: ShardPlan,
    config: ModelConfig,
    /// By rank.
    ranks: Vec<RankFile>,
}

#[derive(Serialize, Deserialize)]
struct RankFile {
    file: String,
    bytes: u64,
    tensors: Vec<RankTensor>,
}

/// Why a model could not be cut, or a part of it not be opened.
#[derive(Debug, Error)]
pub enum ShardFileError {
    /// A file cannot be read or written.
    #[error("failed to {doing} {}", path.display())]
    Io {
        /// What was done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder is there.
    #[error("{} exists; give another folder, or remove it", .0.display())]
    Exists(PathBuf),
    /// The manifest is no manifest.
    #[error("failed to read {}: {why}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// There is no such rank.
    #[error("{} was cut for {size} ranks: there is no rank {rank}", path.display())]
    Rank {
        /// The folder.
        path: PathBuf,
        /// Ranks that it has.
        size: usize,
        /// The rank asked for.
        rank: usize,
    },
    /// A tensor is not what the plan implies.
    #[error("failed to take a weight from {}", path.display())]
    Weights {
        /// The rank's file.
        path: PathBuf,
        /// Why.
        source: WeightsError,
    },
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ShardFileError + use<'a> {
    move |source| ShardFileError::Io { doing, path: path.to_owned(), source }
}

/// Whether a folder holds a model that was cut.
pub fn is_sharded(folder: &Path) -> bool {
    folder.join(MANIFEST).is_file()
}

/// Cuts a model into a new folder. What is written takes its name when it is complete. `progress(done, total)` hears of every
/// weight of every rank.
///
/// # Errors
/// When the folder exists or a file cannot be written; nothing is left then.
pub fn write(
    model: &Model,
    plan: &ShardPlan,
    digest: [u8; 32],
    folder: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), ShardFileError> {
    if folder.exists() {
        return Err(ShardFileError::Exists(folder.to_owned()));
    }
    let mut unfinished = folder.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    if unfinished.exists() {
        // Of a run that was killed.
        fs::remove_dir_all(&unfinished).map_err(failed("remove", &unfinished))?;
    }
    fs::create_dir_all(&unfinished).map_err(failed("create", &unfinished))?;
    let written = write_files(model, plan, digest, &unfinished, progress)
        .and_then(|()| fs::rename(&unfinished, folder).map_err(failed("create", folder)));
    if written.is_err() {
        // The error that is told is the first one; what is left here goes with the next run.
        let _ = fs::remove_dir_all(&unfinished);
    }
    written
}

fn write_files(
    model: &Model,
    plan: &ShardPlan,
    digest: [u8; 32],
    folder: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), ShardFileError> {
    let layers = 0..model.config.layers.len();
    let places: Vec<(Option<usize>, Role)> = std::iter::once(None)
        .chain(layers.map(Some))
        .flat_map(|layer| Role::ALL.into_iter().map(move |role| (layer, role)))
        .filter(|(layer, role)| role.is_per_layer() == layer.is_some())
        // A tied output projection is the embedding.
        .filter(|(_, role)| !(model.config.tied_embeddings && *role == Role::Output))
        .filter(|(layer, role)| model.weights.optional(*layer, *role).is_some())
        .collect();
    let total = places.len() * plan.ranks.len();
    let mut ranks = Vec::with_capacity(plan.ranks.len());
    for (index, rank) in plan.ranks.iter().enumerate() {
        let mut done = index * places.len();
        let file = format!("rank-{index}.weights");
        let path = folder.join(&file);
        let (tensors, bytes) = write_rank(model, rank, &places, &path, &mut || {
            done += 1;
            progress(done, total);
        })?;
        ranks.push(RankFile { file, bytes, tensors });
    }
    copy_text(&model.source, &model.info, folder)?;
    let manifest = Manifest {
        version: VERSION,
        name: model.info.name.clone(),
        model: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        plan: plan.clone(),
        config: model.config.clone(),
        ranks,
    };
    let path = folder.join(MANIFEST);
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is JSON");
    fs::write(&path, json).map_err(failed("write", &path))
}

fn write_rank(
    model: &Model,
    rank: &RankShare,
    places: &[(Option<usize>, Role)],
    path: &Path,
    wrote: &mut dyn FnMut(),
) -> Result<(Vec<RankTensor>, u64), ShardFileError> {
    let mut file = BufWriter::new(File::create(path).map_err(failed("create", path))?);
    let mut tensors = Vec::with_capacity(places.len());
    let mut offset = 0;
    for (layer, role) in places {
        let whole = model.weights.optional(*layer, *role).expect("only what is there was listed");
        let CutView { whole, rows, cols, data } = model.weights.part(whole, *role, Some(rank));
        file.write_all(&data).map_err(failed("write", path))?;
        let padding = data.len().next_multiple_of(ALIGN) - data.len();
        file.write_all(&[0; ALIGN][..padding]).map_err(failed("write", path))?;
        tensors.push(RankTensor {
            name: whole.name.to_owned(),
            layer: *layer,
            role: *role,
            dtype: whole.dtype.name().to_owned(),
            rows,
            cols,
            offset,
            rounding: whole.rounding,
        });
        offset += data.len() + padding;
        wrote();
    }
    let file = file.into_inner().map_err(|error| failed("write", path)(error.into_error()))?;
    file.sync_all().map_err(failed("write", path))?;
    Ok((tensors, offset as u64))
}

/// What tokenizer, chat template and sampling defaults are read from.
fn copy_text(source: &Source, info: &SourceInfo, to: &Path) -> Result<(), ShardFileError> {
    match source {
        Source::Gguf(_) => {
            let first = info.files.first().expect("an opened model has a file");
            let file = MappedFile::open(first).map_err(failed("read", first))?;
            let entries = gguf::write::entries(&file)
                .map_err(|error| ShardFileError::Manifest { path: first.clone(), why: error.to_string() })?;
            let header = gguf::write::layout(&entries, &[]).header;
            let path = to.join(HEADER);
            fs::write(&path, header).map_err(failed("write", &path))
        }
        Source::Folder(folder) => {
            let names = fs::read_dir(folder).map_err(failed("read", folder))?;
            for entry in names {
                let path = entry.map_err(failed("read", folder))?.path();
                let kind = path.extension().and_then(|extension| extension.to_str());
                let index = path.to_string_lossy().ends_with(".index.json");
                if index || !path.is_file() || !matches!(kind, Some("json" | "jinja" | "txt" | "model")) {
                    continue;
                }
                let copy = to.join(path.file_name().unwrap_or_default());
                fs::copy(&path, &copy).map_err(failed("copy", &path))?;
            }
            Ok(())
        }
    }
}

/// Opens one rank's part. Its weights are that part; its configuration is the whole model's.
///
/// # Errors
/// When the folder is not what [`write()`] has left.
pub fn open(folder: &Path, rank: usize) -> Result<Model, ShardFileError> {
    let path = folder.join(MANIFEST);
    let json = fs::read(&path).map_err(failed("read", &path))?;
    let wrong = |why: String| ShardFileError::Manifest { path: path.clone(), why };
    let manifest: Manifest = serde_json::from_slice(&json).map_err(|error| wrong(error.to_string()))?;
    let Manifest { version, name, model, plan, config, mut ranks } = manifest;
    if version != VERSION {
        return Err(wrong(format!("it is of version {version}, this program reads {VERSION}")));
    }
    let digest = digest(&model).ok_or_else(|| wrong("the model's digest is malformed".to_owned()))?;
    let size = plan.ranks.len();
    if rank >= size || ranks.len() != size {
        return Err(ShardFileError::Rank { path: folder.to_owned(), size, rank });
    }
    plan.check(&config).map_err(&wrong)?;
    let RankFile { file, bytes, tensors } = ranks.swap_remove(rank);
    if Path::new(&file).file_name() != Some(file.as_ref()) {
        return Err(wrong(format!("{file:?} is no name of a file beside it")));
    }
    let rank_path = folder.join(&file);
    let mapped = MappedFile::open(&rank_path).map_err(failed("read", &rank_path))?;
    if mapped.len() as u64 != bytes {
        return Err(wrong(format!("{file} has {} bytes instead of {bytes}", mapped.len())));
    }
    let parameters = tensors.iter().map(|tensor| (tensor.rows as u64).saturating_mul(tensor.cols as u64));
    let parameters = parameters.fold(0u64, u64::saturating_add);
    let weights = Weights::of_rank(mapped, tensors, &config, &plan.ranks[rank])
        .map_err(|source| ShardFileError::Weights { path: rank_path.clone(), source })?;
    let (source, generation, format) = text(folder)?;
    let info = SourceInfo { format, files: vec![rank_path], bytes, parameters, name };
    let held = Some(Held { plan, rank, model: digest });
    Ok(Model { config, weights, generation, info, source, held })
}

fn text(folder: &Path) -> Result<(Source, GenerationDefaults, Format), ShardFileError> {
    let header = folder.join(HEADER);
    let wrong = |path: &Path, why: String| ShardFileError::Manifest { path: path.to_owned(), why };
    if header.is_file() {
        let bytes = fs::read(&header).map_err(failed("read", &header))?;
        let parsed = gguf::parse(&bytes).map_err(|error| wrong(&header, error.to_string()))?;
        let generation =
            GenerationDefaults::from_gguf(&parsed.metadata).map_err(|why| wrong(&header, why))?;
        let format = Format::Gguf { version: parsed.version };
        return Ok((Source::Gguf(parsed.metadata), generation, format));
    }
    let object = |name: &str| -> Result<Option<serde_json::Map<String, serde_json::Value>>, ShardFileError> {
        let path = folder.join(name);
        match fs::read(&path) {
            Ok(json) => {
                serde_json::from_slice(&json).map(Some).map_err(|error| wrong(&path, error.to_string()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    };
    let root = object("config.json")?.unwrap_or_default();
    let generation = GenerationDefaults::from_json(object("generation_config.json")?.as_ref(), &root)
        .map_err(|why| wrong(&folder.join("generation_config.json"), why))?;
    Ok((Source::Folder(folder.to_owned()), generation, Format::Safetensors))
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (byte, hex) in digest.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests;
