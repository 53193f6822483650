//! Reads the front of GGUF files, as far as their tensors.

use std::path::Path;

use wharf_model::gguf::{self, Gguf, GgufError, Metadata, TensorInfo};
use wharf_model::{Model, OpenError};

use super::{FileInfo, HeaderError, MAX_HEADER, Reader, Stored};
use crate::scheme::merge;
use crate::shape::{Experts, Group, Shape};
use crate::types::TypeShare;

/// What is read first: enough for a small vocabulary.
const FIRST: u64 = 1 << 20;

/// The model in one file, or in all parts of a split one.
pub(super) fn shape(
    reader: &Reader<'_>,
    files: &[FileInfo],
    name: &str,
) -> Result<(Shape, Vec<FileInfo>), HeaderError> {
    let parts = parts(files)?;
    let mut tensors = Vec::new();
    let mut metadata = None;
    for file in &parts {
        let Gguf { version: _, alignment: _, metadata: here, tensors: more } = front(reader, file)?;
        tensors.extend(more);
        metadata.get_or_insert(here);
    }
    let metadata = metadata.expect("there is at least one part");
    let path = Path::new(&parts[0].name);
    let called = metadata.str("general.name").unwrap_or(name).to_owned();
    let mut shape = match Model::config_of_gguf(&metadata, &tensors, path) {
        Ok(config) => Shape::of_config(&config, called),
        Err(OpenError::Architecture { .. }) => other(&metadata, &tensors, &parts[0].name, called)?,
        Err(OpenError::Config { .. }) if metadata.u64(&key(&metadata, "expert_count")).is_some() => {
            other(&metadata, &tensors, &parts[0].name, called)?
        }
        Err(error) => return Err(HeaderError::Config(error)),
    };
    shape.stored = stored(&tensors);
    Ok((shape, parts))
}

/// The one file, or the parts of the one split model.
fn parts(files: &[FileInfo]) -> Result<Vec<FileInfo>, HeaderError> {
    if let [one] = files {
        return Ok(vec![one.clone()]);
    }
    let split = |file: &FileInfo| gguf::split_name(Path::new(&file.name));
    let firsts: Vec<&FileInfo> =
        files.iter().filter(|file| split(file).is_none_or(|split| split.part == 1)).collect();
    let [first] = firsts[..] else {
        let names: Vec<&str> = firsts.iter().map(|file| file.name.as_str()).collect();
        let why = format!("there are several GGUF files, give one of them: {}", names.join(", "));
        return Err(HeaderError::NoModel(why));
    };
    let Some(name) = split(first) else { return Ok(vec![first.clone()]) };
    (1..=name.count)
        .map(|part| {
            let path = name.path(part).display().to_string();
            let found = files.iter().find(|file| file.name == path).cloned();
            found.ok_or_else(|| HeaderError::NoModel(format!("part {path} of a split model is not there")))
        })
        .collect()
}

fn front(reader: &Reader<'_>, file: &FileInfo) -> Result<Gguf, HeaderError> {
    let most = file.bytes.min(MAX_HEADER);
    let size = usize::try_from(file.bytes).unwrap_or(usize::MAX);
    let (mut bytes, mut wanted) = (Vec::new(), FIRST.min(most));
    loop {
        let more = reader.range(file, bytes.len() as u64..wanted)?;
        bytes.extend(more);
        match gguf::parse_front(&bytes, size) {
            Err(GgufError::Truncated { .. }) if wanted < most => wanted = (wanted * 4).min(most),
            parsed => return parsed.map_err(|source| HeaderError::Gguf { name: file.name.clone(), source }),
        }
    }
}

fn stored(tensors: &[TensorInfo]) -> Stored {
    let mut stored = Stored::new();
    for tensor in tensors {
        let elements = tensor.shape.iter().map(|n| *n as u64).product();
        let share = TypeShare { dtype: tensor.dtype.name().to_owned(), elements, bytes: tensor.len as u64 };
        merge(stored.entry(group(&tensor.name, tensor.shape.len())).or_default(), share);
    }
    stored
}

fn group(name: &str, dims: usize) -> Group {
    match name {
        "token_embd.weight" => Group::Embedding,
        "output.weight" => Group::Output,
        _ if name.contains("_exps.") => Group::Experts,
        _ if name.starts_with("blk.") && dims >= 2 => Group::Layers,
        _ => Group::Rest,
    }
}

fn key(metadata: &Metadata, suffix: &str) -> String {
    format!("{}.{suffix}", metadata.str("general.architecture").unwrap_or_default())
}

/// A model that Wharf does not serve, from the keys that all architectures share.
fn other(
    metadata: &Metadata,
    tensors: &[TensorInfo],
    file: &str,
    name: String,
) -> Result<Shape, HeaderError> {
    let find = |suffix: &str| metadata.u64(&key(metadata, suffix));
    let need = |suffix: &str| {
        find(suffix).ok_or_else(|| HeaderError::Missing { name: file.to_owned(), key: key(metadata, suffix) })
    };
    let hidden_size = need("embedding_length")?;
    let n_heads = need("attention.head_count")?;
    let embedding = tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
    let ffn_size = find("feed_forward_length").unwrap_or(0);
    let experts = find("expert_count").filter(|count| *count > 0).map(|count| Experts {
        count,
        active: find("expert_used_count").unwrap_or(1),
        ffn_size: find("expert_feed_forward_length").unwrap_or(ffn_size),
        shared_ffn_size: find("expert_shared_feed_forward_length").unwrap_or(0),
        dense_layers: find("leading_dense_block_count").unwrap_or(0),
    });
    Ok(Shape {
        name,
        architecture: metadata.str("general.architecture").unwrap_or_default().to_owned(),
        served: false,
        n_layers: need("block_count")?,
        hidden_size,
        ffn_size,
        n_heads,
        n_kv_heads: find("attention.head_count_kv").unwrap_or(n_heads),
        head_dim: find("attention.key_length").unwrap_or(hidden_size / n_heads.max(1)),
        vocab_size: embedding.map_or(0, |tensor| tensor.shape[0] as u64),
        context_length: need("context_length")?,
        tied_embeddings: !tensors.iter().any(|tensor| tensor.name == "output.weight"),
        norms_per_layer: 2 * hidden_size,
        experts,
        stored: Stored::new(),
    })
}
