//! Decides what a path holds and turns it into a [`Model`]: find the files, map them, read the
//! configuration, bind the weights.

mod compressed;
mod gguf_files;
mod header;
mod hf_files;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::arch::{Architecture, ConfigError};
use crate::config::ModelConfig;
use crate::generation::GenerationDefaults;
use crate::gguf::{GgufError, Metadata, TensorInfo};
use crate::safetensors::SafetensorsError;
use crate::shard::folder::Held;
use crate::weights::{Weights, WeightsError};

/// An opened checkpoint: described, checked, mapped, not yet computed with.
#[derive(Debug)]
pub struct Model {
    /// Shape and arithmetic.
    pub config: ModelConfig,
    /// The mapped weights.
    pub weights: Weights,
    /// Stop tokens and sampling defaults.
    pub generation: GenerationDefaults,
    /// Where it came from, for reports.
    pub info: SourceInfo,
    /// What tokenizer and chat template are read from.
    pub source: Source,
    /// Which rank's part of the model this is, when it was cut.
    pub held: Option<Held>,
}

/// Where the text side of a checkpoint (tokenizer, chat template) is.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// In the metadata of a GGUF file.
    Gguf(Metadata),
    /// In the files of a Hugging Face folder.
    Folder(PathBuf),
}

/// Where a model came from.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceInfo {
    /// File format.
    pub format: Format,
    /// Files with weights, mapped.
    pub files: Vec<PathBuf>,
    /// Bytes of those files together.
    pub bytes: u64,
    /// Elements of all tensors together.
    pub parameters: u64,
    /// Name that the checkpoint gives itself, else that of its file or folder.
    pub name: String,
}

/// Format of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// GGUF of this version.
    Gguf {
        /// 2 or 3.
        version: u32,
    },
    /// Safetensors with config.json.
    Safetensors,
}

/// Choices that change how a checkpoint is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// Longest sequence that will be served, tokens; `None` leaves it to the model. Only LongRoPE models
    /// (Phi-3 128k) read differently: beyond the original context they use other frequencies throughout.
    pub context_length: Option<usize>,
}

/// Why a path could not be opened as a model.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file system refused.
    #[error("failed to read {}", path.display())]
    Read {
        /// What was being read.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Nothing that looks like a model.
    #[error("{} holds no model: {why}", path.display())]
    NoModel {
        /// The path given.
        path: PathBuf,
        /// What was looked for.
        why: String,
    },
    /// A pickle checkpoint, which runs code when it is loaded.
    #[error(
        "{} is a pickle checkpoint, which can run any code when loaded and is not read; convert it with: \
         python -c \"from transformers import AutoModelForCausalLM as M; \
         M.from_pretrained('{folder}').save_pretrained('{folder}-safetensors')\"",
        path.display()
    )]
    Pickle {
        /// The checkpoint.
        path: PathBuf,
        /// Its folder.
        folder: String,
    },
    /// A GGUF file is malformed.
    #[error("failed to parse {} as GGUF", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: GgufError,
    },
    /// A split GGUF whose parts do not belong together.
    #[error("{} is a part of a split model: {why}", path.display())]
    Split {
        /// The part.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A safetensors file or index is malformed.
    #[error("failed to parse {}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SafetensorsError,
    },
    /// A tensor of a type that safetensors knows and we do not read.
    #[error("tensor {name:?} in {} has type {dtype}; F32, F16, BF16 and the types of compressed-tensors are supported", path.display())]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A tensor that two files hold.
    #[error("tensor {name:?} is both in {} and in {}", first.display(), second.display())]
    DuplicateTensor {
        /// The tensor.
        name: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A JSON file is malformed.
    #[error("failed to parse {}: {why}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An architecture that Wharf does not serve.
    #[error("architecture {found:?} in {} is not supported; supported: {}", path.display(), Architecture::supported())]
    Architecture {
        /// The file that names it.
        path: PathBuf,
        /// The name.
        found: String,
    },
    /// The configuration does not describe a model that we serve.
    #[error("failed to read the configuration in {}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The weights do not fit the configuration.
    #[error("failed to bind the weights of {}", path.display())]
    Weights {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with them.
        source: WeightsError,
    },
}

impl Model {
    /// Opens a `.gguf` file, one part of a split one, or a folder with safetensors or a single GGUF model.
    pub fn open(path: &Path) -> Result<Model, OpenError> {
        Model::open_with(path, OpenOptions::default())
    }

    /// The shape that a config.json describes, for a model whose weights do not exist yet.
    pub fn read_config(path: &Path) -> Result<ModelConfig, OpenError> {
        hf_files::read_config(path)
    }

    /// As [`Model::read_config`], of the text of a config.json that came from `path`, wherever that is.
    pub fn config_of_json(json: &[u8], path: &Path) -> Result<ModelConfig, OpenError> {
        hf_files::config_of(json, path)
    }

    /// The shape that metadata and directory of a GGUF file describe, none of whose tensors is read. Rotary factors that a tensor
    /// holds are taken for ones, so what comes of this says how large a model is and is not to be computed with.
    pub fn config_of_gguf(
        metadata: &Metadata,
        tensors: &[TensorInfo],
        path: &Path,
    ) -> Result<ModelConfig, OpenError> {
        header::config_of_gguf(metadata, tensors, path)
    }

    /// The model with its layers over and over until there are `layers`: for measurements, which need a large model's shape and not its file.
    ///
    /// # Panics
    /// When it has no layers.
    #[doc(hidden)]
    pub fn repeated(mut self, layers: usize) -> Model {
        let stored = self.config.layers.len();
        self.config.layers = self.config.layers.iter().cycle().take(layers).cloned().collect();
        self.weights.repeat(stored, layers);
        self
    }

    /// [`Model::open`] with choices.
    pub fn open_with(path: &Path, options: OpenOptions) -> Result<Model, OpenError> {
        match locate(path)? {
            Found::Gguf(file) => gguf_files::open(&file, options),
            Found::Folder(folder) => hf_files::open(&folder, options),
        }
    }
}

/// What a path holds.
#[derive(Debug, PartialEq)]
enum Found {
    Gguf(PathBuf),
    Folder(PathBuf),
}

fn locate(path: &Path) -> Result<Found, OpenError> {
    let metadata = fs::metadata(path).map_err(|source| OpenError::Read { path: path.to_owned(), source })?;
    if metadata.is_dir() { locate_in_folder(path) } else { locate_file(path) }
}

/// The first bytes decide, not the name: files in a content-addressed cache have none.
fn locate_file(path: &Path) -> Result<Found, OpenError> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let magic = read_magic(path)?;
    let folder = folder_of(path).to_owned();
    let no_model = |why: &str| Err(OpenError::NoModel { path: path.to_owned(), why: why.to_owned() });
    match (&magic[..], extension) {
        (b"GGUF", _) | (_, "gguf") => Ok(Found::Gguf(path.to_owned())),
        (b"PK\x03\x04", _) | ([0x80, 2..=5, ..], _) | (_, "bin" | "pt" | "pth" | "ckpt" | "pkl") => {
            Err(pickle(path.to_owned()))
        }
        (_, "safetensors" | "json") if folder.join("config.json").is_file() => Ok(Found::Folder(folder)),
        (_, "safetensors") => {
            no_model("a safetensors file needs config.json beside it; give the folder that has both")
        }
        _ => no_model("expected a .gguf file, or a folder with config.json and safetensors"),
    }
}

fn locate_in_folder(folder: &Path) -> Result<Found, OpenError> {
    if crate::shard::folder::is_sharded(folder) {
        let why = "it was cut for a group of ranks, each of which reads its part of it: use wharf serve \
                   --tensor-parallel with as many ranks";
        return Err(OpenError::NoModel { path: folder.to_owned(), why: why.to_owned() });
    }
    let names = file_names(folder)?;
    let with = |extension: &str| {
        let matches = |name: &&PathBuf| name.extension().is_some_and(|e| e == extension);
        names.iter().filter(matches).cloned().collect::<Vec<_>>()
    };
    if !with("safetensors").is_empty() {
        return Ok(Found::Folder(folder.to_owned()));
    }
    let ggufs = with("gguf");
    let first_parts: Vec<&PathBuf> = ggufs
        .iter()
        .filter(|name| crate::gguf::split_name(name).is_none_or(|split| split.part == 1))
        .collect();
    match first_parts[..] {
        [one] => return Ok(Found::Gguf(folder.join(one))),
        [] => {}
        [..] => {
            let list: Vec<String> = first_parts.iter().map(|name| name.display().to_string()).collect();
            let why = format!("it has several GGUF files, give one of them: {}", list.join(", "));
            return Err(OpenError::NoModel { path: folder.to_owned(), why });
        }
    }
    let pickles = ["bin", "pt", "pth", "ckpt"].into_iter().flat_map(with).next();
    match pickles {
        Some(name) => Err(pickle(folder.join(name))),
        None => Err(OpenError::NoModel {
            path: folder.to_owned(),
            why: "expected config.json with *.safetensors, or a .gguf file".to_owned(),
        }),
    }
}

fn pickle(path: PathBuf) -> OpenError {
    let folder = folder_of(&path).display().to_string();
    OpenError::Pickle { path, folder }
}

/// The folder of a file; `.` for a bare name.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Names of the entries of a folder, sorted.
fn file_names(folder: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let fail = |source| OpenError::Read { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        names.push(PathBuf::from(entry.map_err(fail)?.file_name()));
    }
    names.sort();
    Ok(names)
}

fn read_magic(path: &Path) -> Result<Vec<u8>, OpenError> {
    let fail = |source| OpenError::Read { path: path.to_owned(), source };
    let mut magic = Vec::new();
    fs::File::open(path).map_err(fail)?.take(4).read_to_end(&mut magic).map_err(fail)?;
    Ok(magic)
}

/// The last component of a path, for a model that does not name itself. A link keeps its own name: what it
/// points at may be a digest.
fn name_of(path: &Path) -> String {
    let resolved = || path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_owned()));
    let name = path.file_name().map(ToOwned::to_owned).or_else(resolved).unwrap_or_default();
    let name = name.to_string_lossy();
    name.strip_suffix(".gguf").unwrap_or(&name).to_owned()
}
