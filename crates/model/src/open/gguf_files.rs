//! Opens a GGUF model: one file, or all parts of a split one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use wharf_kernels::{DType, Rounding};

use super::{Format, Model, OpenError, OpenOptions, Source, SourceInfo, name_of};
use crate::arch::gguf::TensorFacts;
use crate::arch::{Architecture, ConfigError, GgufConfig, TensorRule};
use crate::generation::GenerationDefaults;
use crate::gguf::{self, Gguf, Metadata};
use crate::mmap::MappedFile;
use crate::weights::{Naming, StoredTensor, Weights};

pub(super) fn open(path: &Path, options: OpenOptions) -> Result<Model, OpenError> {
    let (first, file) = read(path)?;
    let mut parts = Parts { files: vec![file], tensors: Vec::new() };
    let count = first.metadata.u64("split.count").unwrap_or(1);
    let (version, metadata) = if count <= 1 {
        parts.add(first.tensors)?;
        (first.version, first.metadata)
    } else {
        read_split(path, first, &mut parts)?
    };
    let Parts { files, tensors } = parts;

    let name = metadata.str("general.architecture").ok_or_else(|| OpenError::Config {
        path: path.to_owned(),
        source: ConfigError::Missing("general.architecture".into()),
    })?;
    let architecture = Architecture::by_gguf(name)
        .ok_or_else(|| OpenError::Architecture { path: path.to_owned(), found: name.to_owned() })?;
    let directory = Directory::new(&files, &tensors);
    let config = GgufConfig::new(&metadata, name, &directory, options.context_length);
    let config = (architecture.from_gguf)(&config)
        .map_err(|source| OpenError::Config { path: path.to_owned(), source })?;
    let generation = GenerationDefaults::from_gguf(&metadata)
        .map_err(|why| OpenError::Json { path: path.to_owned(), why })?;
    let info = SourceInfo {
        format: Format::Gguf { version },
        files: files.iter().map(|file| file.path().to_owned()).collect(),
        bytes: files.iter().map(|file| file.len() as u64).sum(),
        parameters: tensors.iter().map(|tensor| tensor.elements() as u64).sum(),
        name: metadata.str("general.name").map_or_else(|| name_of(path), str::to_owned),
    };
    let weights = Weights::bind(files, tensors, &config, &architecture.rules(), &GgufNames)
        .map_err(|source| OpenError::Weights { path: path.to_owned(), source })?;
    Ok(Model { config, weights, generation, info, source: Source::Gguf(metadata), held: None })
}

fn read(path: &Path) -> Result<(Gguf, MappedFile), OpenError> {
    let file = MappedFile::open(path).map_err(|source| OpenError::Read { path: path.to_owned(), source })?;
    let parsed = gguf::parse(&file).map_err(|source| OpenError::Gguf { path: path.to_owned(), source })?;
    Ok((parsed, file))
}

/// Files read so far and their tensors, all names distinct.
struct Parts {
    files: Vec<MappedFile>,
    tensors: Vec<StoredTensor>,
}

impl Parts {
    /// Adds the directory of the last file.
    fn add(&mut self, infos: Vec<gguf::TensorInfo>) -> Result<(), OpenError> {
        let file = self.files.len() - 1;
        let known: HashMap<&str, usize> =
            self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.file)).collect();
        if let Some(info) = infos.iter().find(|info| known.contains_key(info.name.as_str())) {
            return Err(OpenError::DuplicateTensor {
                name: info.name.clone(),
                first: self.files[known[info.name.as_str()]].path().to_owned(),
                second: self.files[file].path().to_owned(),
            });
        }
        self.tensors.extend(infos.into_iter().map(|info| {
            let gguf::TensorInfo { name, dtype, shape, offset, len } = info;
            StoredTensor {
                name,
                dtype,
                shape,
                file,
                offset,
                len,
                compressed: None,
                rounding: Rounding::Blocks,
            }
        }));
        Ok(())
    }
}

/// Reads every part; metadata comes from the first, whichever part was asked for. `given` is already the only
/// file of `parts`, its directory is not.
fn read_split(path: &Path, given: Gguf, parts: &mut Parts) -> Result<(u32, Metadata), OpenError> {
    let bad = |path: &Path, why: String| OpenError::Split { path: path.to_owned(), why };
    let count = given.metadata.u64("split.count").unwrap_or(1);
    let split = gguf::split_name(path).ok_or_else(|| {
        bad(path, "its name must end in -00001-of-0000N.gguf for the other parts to be found".into())
    })?;
    if split.count as u64 != count {
        return Err(bad(path, format!("its name says {} parts, its metadata {count}", split.count)));
    }
    let given_file = parts.files.pop().expect("the given file was read");
    let mut given = Some((given, given_file));
    let mut first = None;
    for part in 1..=split.count {
        let part_path: PathBuf = split.path(part);
        let reread = if part == split.part { given.take() } else { None };
        let (parsed, file) = match reread {
            Some(read) => read,
            None => read(&part_path)?,
        };
        if parsed.metadata.u64("split.no") != Some(part as u64 - 1) {
            let found = parsed.metadata.u64("split.no");
            return Err(bad(&part_path, format!("split.no must be {}, but is {found:?}", part - 1)));
        }
        parts.files.push(file);
        parts.add(parsed.tensors)?;
        first.get_or_insert((parsed.version, parsed.metadata));
    }
    let (version, metadata) = first.expect("a split has at least one part");
    match metadata.u64("split.tensors.count") {
        Some(expected) if expected != parts.tensors.len() as u64 => Err(bad(
            path,
            format!("split.tensors.count is {expected}, but the parts hold {}", parts.tensors.len()),
        )),
        _ => Ok((version, metadata)),
    }
}

/// Tensors by name, for configurations that depend on them.
struct Directory<'a> {
    files: &'a [MappedFile],
    by_name: HashMap<&'a str, &'a StoredTensor>,
}

impl<'a> Directory<'a> {
    fn new(files: &'a [MappedFile], tensors: &'a [StoredTensor]) -> Directory<'a> {
        Directory { files, by_name: tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect() }
    }
}

impl TensorFacts for Directory<'_> {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.by_name.get(name).map(|tensor| tensor.shape.as_slice())
    }

    fn f32_vector(&self, name: &str) -> Result<Option<Vec<f32>>, ConfigError> {
        let Some(tensor) = self.by_name.get(name) else { return Ok(None) };
        if tensor.dtype != DType::F32 {
            return Err(ConfigError::Type {
                key: format!("tensor {name}"),
                expected: "of type F32",
                found: tensor.dtype.name().to_owned(),
            });
        }
        let bytes = &self.files[tensor.file][tensor.offset..tensor.offset + tensor.len];
        let (chunks, _) = bytes.as_chunks::<4>();
        Ok(Some(chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()))
    }
}

struct GgufNames;

impl Naming for GgufNames {
    fn name(&self, rule: &TensorRule, layer: Option<usize>) -> String {
        match layer {
            Some(layer) => rule.gguf.replace("{}", &layer.to_string()),
            None => rule.gguf.to_owned(),
        }
    }

    /// Rotary factors are part of the configuration.
    fn may_ignore(&self, name: &str) -> bool {
        matches!(name, "rope_freqs.weight" | "rope_factors_long.weight" | "rope_factors_short.weight")
            || name.ends_with(".attn_rot_embd.weight")
    }
}
