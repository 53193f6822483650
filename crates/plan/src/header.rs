//! Reads what the headers of a checkpoint say, and nothing else of it: no byte of a tensor is asked for.
//!
//! A GGUF file has everything before its tensors; how long that is nobody says, so the front that is read grows until it parses. A
//! Hugging Face folder has config.json, and a header at the front of each safetensors file whose length is its first eight bytes. A
//! config.json alone is enough: parameters are counted from the architecture.

mod gguf;
mod json;
mod safetensors;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use thiserror::Error;
use wharf_model::OpenError;
use wharf_model::gguf::GgufError;
use wharf_model::safetensors::SafetensorsError;

use crate::shape::{Group, Shape};
use crate::types::TypeShare;

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Name within the checkpoint.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// Where the files of a checkpoint are: a folder, or a place that answers range requests.
pub trait ModelFiles {
    /// Every file.
    ///
    /// # Errors
    /// When the place cannot be read.
    fn files(&self) -> io::Result<Vec<FileInfo>>;

    /// Some bytes of a file, which has them.
    ///
    /// # Errors
    /// When the place cannot be read.
    fn read(&self, name: &str, range: Range<u64>) -> io::Result<Vec<u8>>;
}

/// What the headers say.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The model.
    pub shape: Shape,
    /// Files with weights; empty for a config.json alone.
    pub weights: Vec<FileInfo>,
    /// Bytes that were read for it.
    pub bytes_read: u64,
}

/// Why headers could not be read.
#[derive(Debug, Error)]
pub enum HeaderError {
    /// The place of the files refused.
    #[error("failed to read {name}")]
    Read {
        /// What was being read.
        name: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Nothing that looks like a model.
    #[error("there is no model: {0}")]
    NoModel(String),
    /// A GGUF header is malformed.
    #[error("failed to parse the header of {name} as GGUF")]
    Gguf {
        /// The file.
        name: String,
        /// What is wrong with it.
        source: GgufError,
    },
    /// A safetensors header or index is malformed.
    #[error("failed to parse the header of {name}: {why}")]
    Safetensors {
        /// The file.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The index of a sharded checkpoint is malformed.
    #[error("failed to parse {name}")]
    Index {
        /// The file.
        name: String,
        /// What is wrong with it.
        source: SafetensorsError,
    },
    /// The configuration does not describe a model.
    #[error("failed to read the configuration of the model")]
    Config(#[source] OpenError),
    /// Sizes that no model has.
    #[error("the sizes that the configuration names are not those of a model")]
    Implausible,
    /// The configuration of an architecture that Wharf does not serve lacks a size.
    #[error("{name} does not say {key:?}, without which the model's size is unknown")]
    Missing {
        /// The file.
        name: String,
        /// The key.
        key: String,
    },
}

/// Largest header that is read. Vocabularies take tens of megabytes at most.
const MAX_HEADER: u64 = 256 << 20;

/// Reads a checkpoint's headers. `name` is what to call the model if it does not say; GGUF files come before safetensors.
///
/// # Errors
/// When a file cannot be read or what it says is malformed.
pub fn read(files: &dyn ModelFiles, name: &str) -> Result<Header, HeaderError> {
    let reader = Reader { files, bytes_read: 0.into() };
    let all = reader.list()?;
    let with = |extension: &str| {
        let found = all.iter().filter(|file| file.name.to_ascii_lowercase().ends_with(extension));
        found.cloned().collect::<Vec<FileInfo>>()
    };
    let (ggufs, config) = (with(".gguf"), all.iter().find(|file| file.name == "config.json"));
    let (shape, weights) = match (ggufs.is_empty(), config) {
        (true, Some(config)) => {
            let text = reader.whole(config)?;
            let (mut shape, written) = json::shape(&text, &config.name, name)?;
            let tensors = with(".safetensors");
            let index = all.iter().find(|file| file.name == "model.safetensors.index.json");
            let (stored, weights) = safetensors::stored(&reader, &tensors, index)?;
            // Without weights, what the configuration says that they are.
            shape.stored = match stored.is_empty() {
                true if shape.is_plausible() => written.apply(&shape),
                _ => stored,
            };
            (shape, weights)
        }
        (false, _) => gguf::shape(&reader, &ggufs, name)?,
        // A file of a content-addressed cache has no name; its first bytes say what it is.
        (true, None) if all.len() == 1 && all[0].bytes > 0 => gguf::shape(&reader, &all, name)?,
        (true, None) => {
            let why = "expected a .gguf file, or config.json with or without safetensors";
            return Err(HeaderError::NoModel(why.into()));
        }
    };
    if !shape.is_plausible() {
        return Err(HeaderError::Implausible);
    }
    Ok(Header { shape, weights, bytes_read: reader.bytes_read.get() })
}

/// Files, and how much of them has been read.
struct Reader<'a> {
    files: &'a dyn ModelFiles,
    bytes_read: std::cell::Cell<u64>,
}

impl Reader<'_> {
    fn list(&self) -> Result<Vec<FileInfo>, HeaderError> {
        let mut all = self
            .files
            .files()
            .map_err(|source| HeaderError::Read { name: "the list of files".into(), source })?;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    fn range(&self, file: &FileInfo, range: Range<u64>) -> Result<Vec<u8>, HeaderError> {
        let wanted = range.end - range.start;
        let fail = |source| HeaderError::Read { name: file.name.clone(), source };
        let bytes = self.files.read(&file.name, range).map_err(fail)?;
        self.bytes_read.set(self.bytes_read.get() + bytes.len() as u64);
        match bytes.len() as u64 == wanted {
            true => Ok(bytes),
            false => {
                let why = format!("{} bytes came where {wanted} were asked for", bytes.len());
                Err(fail(io::Error::new(io::ErrorKind::UnexpectedEof, why)))
            }
        }
    }

    /// A small file.
    fn whole(&self, file: &FileInfo) -> Result<Vec<u8>, HeaderError> {
        if file.bytes > MAX_HEADER {
            let source = io::Error::other(format!("it is larger than {MAX_HEADER} bytes"));
            return Err(HeaderError::Read { name: file.name.clone(), source });
        }
        self.range(file, 0..file.bytes)
    }
}

/// What weights are stored as, by group.
type Stored = BTreeMap<Group, Vec<TypeShare>>;
