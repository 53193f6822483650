//! Opens a folder as Hugging Face lays it out: config.json, safetensors, an index when sharded.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use wharf_kernels::Rounding;

use super::compressed::{Assembled, Compression, assemble, compression};
use super::{Format, Model, OpenError, OpenOptions, Source, SourceInfo, file_names, name_of};
use crate::arch::{Architecture, ConfigError, HfConfig, TensorRule};
use crate::config::ModelConfig;
use crate::generation::GenerationDefaults;
use crate::mmap::MappedFile;
use crate::role::Role;
use crate::safetensors::{self, Entry};
use crate::weights::{Naming, StoredTensor, Weights};

/// Largest JSON file that is read; the index of a model with 100,000 tensors takes 10 MB.
const MAX_JSON_BYTES: u64 = 64 << 20;

pub(super) fn open(folder: &Path, options: OpenOptions) -> Result<Model, OpenError> {
    let config_path = folder.join("config.json");
    let root = read_object(&config_path)?.ok_or_else(|| OpenError::NoModel {
        path: folder.to_owned(),
        why: "there is no config.json beside the safetensors".to_owned(),
    })?;
    let (architecture, config) = configuration(&root, &config_path, options)?;
    let compression =
        compression(&root).map_err(|source| OpenError::Config { path: config_path.clone(), source })?;

    let generation_path = folder.join("generation_config.json");
    let generation = read_object(&generation_path)?;
    let generation = GenerationDefaults::from_json(generation.as_ref(), &root)
        .map_err(|why| OpenError::Json { path: generation_path, why })?;

    let (files, tensors, names) = read_tensors(folder, compression, &config_path)?;
    // A repository (`organisation/name`) says more than a folder; a path of the machine that trained it, less.
    let is_repository = |name: &&str| name.split('/').count() == 2 && !name.starts_with(['/', '.']);
    let named = root.get("_name_or_path").and_then(Value::as_str).filter(is_repository);
    let info = SourceInfo {
        format: Format::Safetensors,
        files: files.iter().map(|file| file.path().to_owned()).collect(),
        bytes: files.iter().map(|file| file.len() as u64).sum(),
        parameters: tensors.iter().map(|tensor| tensor.elements() as u64).sum(),
        name: named.map_or_else(|| name_of(folder), str::to_owned),
    };
    let weights = Weights::bind(files, tensors, &config, &architecture.rules(), &names)
        .map_err(|source| OpenError::Weights { path: folder.to_owned(), source })?;
    Ok(Model { config, weights, generation, info, source: Source::Folder(folder.to_owned()), held: None })
}

/// The shape that a config.json describes, weights or not.
pub(super) fn read_config(path: &Path) -> Result<ModelConfig, OpenError> {
    let missing = || OpenError::NoModel { path: path.to_owned(), why: "there is no such file".to_owned() };
    let root = read_object(path)?.ok_or_else(missing)?;
    Ok(configuration(&root, path, OpenOptions::default())?.1)
}

/// As [`read_config`], of a text that is at hand.
pub(super) fn config_of(json: &[u8], path: &Path) -> Result<ModelConfig, OpenError> {
    Ok(configuration(&object(json, path)?, path, OpenOptions::default())?.1)
}

fn configuration(
    root: &Map<String, Value>,
    path: &Path,
    options: OpenOptions,
) -> Result<(&'static Architecture, ModelConfig), OpenError> {
    let (architecture, class) = architecture(root, path)?;
    let config = HfConfig::new(root, class, options.context_length);
    let fail = |source| OpenError::Config { path: path.to_owned(), source };
    Ok((architecture, (architecture.from_hf)(&config).map_err(fail)?))
}

/// The class decides; `model_type` stands in when config.json names no class.
fn architecture(
    root: &Map<String, Value>,
    path: &Path,
) -> Result<(&'static Architecture, String), OpenError> {
    let class = root.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    let model_type = root.get("model_type").and_then(Value::as_str);
    let (found, name) = match (class, model_type) {
        (Some(class), _) => (Architecture::by_hf_class(class), class),
        (None, Some(model_type)) => (Architecture::by_hf_model_type(model_type), model_type),
        (None, None) => {
            let source = ConfigError::Missing("architectures".into());
            return Err(OpenError::Config { path: path.to_owned(), source });
        }
    };
    let unsupported = || OpenError::Architecture { path: path.to_owned(), found: name.to_owned() };
    Ok((found.ok_or_else(unsupported)?, name.to_owned()))
}

/// A JSON object, or `None` when there is no such file.
fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, OpenError> {
    read_json_bytes(path)?.map(|bytes| object(&bytes, path)).transpose()
}

fn object(json: &[u8], path: &Path) -> Result<Map<String, Value>, OpenError> {
    let fail = |why: String| OpenError::Json { path: path.to_owned(), why };
    match serde_json::from_slice(json).map_err(|error| fail(error.to_string()))? {
        Value::Object(object) => Ok(object),
        _ => Err(fail("expected an object".to_owned())),
    }
}

fn read_json_bytes(path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    let fail = |source| OpenError::Read { path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > MAX_JSON_BYTES {
        let why = format!("it is larger than {MAX_JSON_BYTES} bytes");
        return Err(OpenError::Json { path: path.to_owned(), why });
    }
    Ok(Some(bytes))
}

fn read_tensors(
    folder: &Path,
    compression: Option<Compression>,
    config_path: &Path,
) -> Result<(Vec<MappedFile>, Vec<StoredTensor>, HfNames), OpenError> {
    let index_path = folder.join("model.safetensors.index.json");
    let index = match read_json_bytes(&index_path)? {
        None => None,
        Some(json) => {
            let fail = |source| OpenError::Safetensors { path: index_path.clone(), source };
            Some(safetensors::parse_index(&json).map_err(fail)?)
        }
    };
    let paths = match &index {
        Some(map) => {
            let names: BTreeSet<&String> = map.values().collect();
            names.into_iter().map(|name| folder.join(name)).collect()
        }
        None => vec![single_file(folder)?],
    };
    let mut files = Vec::new();
    let mut entries: Vec<(usize, Entry)> = Vec::new();
    let mut owner: HashMap<String, usize> = HashMap::new();
    for path in paths {
        let file =
            MappedFile::open(&path).map_err(|source| OpenError::Read { path: path.clone(), source })?;
        let parsed = safetensors::parse_header(&file)
            .map_err(|source| OpenError::Safetensors { path: path.clone(), source })?;
        for entry in parsed {
            if let Some(first) = owner.insert(entry.name.clone(), files.len()) {
                let first = if first == files.len() { path.clone() } else { path_of(&files, first) };
                return Err(OpenError::DuplicateTensor { name: entry.name, first, second: path });
            }
            entries.push((files.len(), entry));
        }
        files.push(file);
    }
    if let Some(map) = &index {
        check_index(map, &owner, &files, &index_path)?;
    }
    let names = HfNames::detect(|name| owner.contains_key(name));
    let assembled = assemble(compression, entries)
        .map_err(|source| OpenError::Config { path: config_path.to_owned(), source })?;
    let mut tensors = Vec::new();
    for tensor in assembled {
        let (file, Entry { name, dtype, shape, offset, len }, compressed, rounding) = match tensor {
            Assembled::Plain(file, entry) => (file, entry, None, Rounding::Blocks),
            Assembled::Compressed { file, entry, matrix, activations } => {
                let dtype = Ok(matrix.dtype(&files));
                let rounding = activations
                    .rounding(&files)
                    .map_err(|source| OpenError::Config { path: config_path.to_owned(), source })?;
                (file, Entry { dtype, ..entry }, Some(matrix), rounding)
            }
        };
        match dtype {
            Ok(dtype) => {
                tensors.push(StoredTensor { name, dtype, shape, file, offset, len, compressed, rounding })
            }
            Err(_) if names.may_ignore(&name) => {}
            Err(dtype) => return Err(OpenError::TensorType { path: path_of(&files, file), name, dtype }),
        }
    }
    Ok((files, tensors, names))
}

fn path_of(files: &[MappedFile], index: usize) -> PathBuf {
    files[index].path().to_owned()
}

fn single_file(folder: &Path) -> Result<PathBuf, OpenError> {
    let usual = folder.join("model.safetensors");
    if usual.is_file() {
        return Ok(usual);
    }
    let names = file_names(folder)?;
    let files: Vec<&PathBuf> =
        names.iter().filter(|name| name.extension().is_some_and(|e| e == "safetensors")).collect();
    match files[..] {
        [one] => Ok(folder.join(one)),
        _ => Err(OpenError::NoModel {
            path: folder.to_owned(),
            why: format!(
                "it has {} safetensors files, but neither model.safetensors nor model.safetensors.index.json",
                files.len()
            ),
        }),
    }
}

fn check_index(
    map: &BTreeMap<String, String>,
    owner: &HashMap<String, usize>,
    files: &[MappedFile],
    path: &Path,
) -> Result<(), OpenError> {
    for (tensor, file) in map {
        let found = owner.get(tensor).and_then(|index| files[*index].path().file_name());
        if found.is_none_or(|name| name != file.as_str()) {
            let why = format!("it says that tensor {tensor:?} is in {file:?}, but it is not");
            return Err(OpenError::Json { path: path.to_owned(), why });
        }
    }
    Ok(())
}

/// Prefixes of the decoder's tensors and of the output projection; models with a vision part nest the text.
struct HfNames {
    body: &'static str,
    head: &'static str,
}

impl HfNames {
    const KNOWN: [HfNames; 4] = [
        HfNames { body: "model.", head: "" },
        HfNames { body: "language_model.model.", head: "language_model." },
        HfNames { body: "model.language_model.", head: "" },
        // A checkpoint saved from the bare decoder without its head.
        HfNames { body: "", head: "" },
    ];

    /// The prefixes under which the embedding is found, the usual ones when it is missing.
    fn detect(exists: impl Fn(&str) -> bool) -> HfNames {
        let found =
            HfNames::KNOWN.into_iter().find(|names| exists(&format!("{}embed_tokens.weight", names.body)));
        found.unwrap_or(HfNames { body: "model.", head: "" })
    }
}

impl Naming for HfNames {
    fn name(&self, rule: &TensorRule, layer: Option<usize>) -> String {
        let prefix = if rule.role == Role::Output { self.head } else { self.body };
        let name = match layer {
            Some(layer) => rule.hf.replace("{}", &layer.to_string()),
            None => rule.hf.to_owned(),
        };
        format!("{prefix}{name}")
    }

    /// Buffers that old versions of Transformers saved, and the vision part of multimodal models.
    fn may_ignore(&self, name: &str) -> bool {
        name.ends_with(".rotary_emb.inv_freq")
            || [
                "vision_tower.",
                "multi_modal_projector.",
                "model.vision_tower.",
                "model.multi_modal_projector.",
            ]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    }
}
