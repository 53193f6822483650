//! Reads the headers of safetensors files: names, types and extents of tensors.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{FileInfo, HeaderError, MAX_HEADER, Reader, Stored};
use crate::scheme::merge;
use crate::shape::Group;
use crate::types::TypeShare;

/// Types of all tensors by group, and the files that hold them.
pub(super) fn stored(
    reader: &Reader<'_>,
    files: &[FileInfo],
    index: Option<&FileInfo>,
) -> Result<(Stored, Vec<FileInfo>), HeaderError> {
    let named: Option<BTreeSet<String>> = match index {
        None => None,
        Some(index) => {
            let text = reader.whole(index)?;
            let fail = |source| HeaderError::Index { name: index.name.clone(), source };
            let map = wharf_model::safetensors::parse_index(&text).map_err(fail)?;
            Some(map.into_values().collect())
        }
    };
    let wanted = |file: &&FileInfo| match &named {
        Some(named) => named.contains(&file.name),
        // Some repositories hold the same weights twice, as one file and under another name.
        None => files.len() == 1 || file.name == "model.safetensors" || !has_usual(files),
    };
    let weights: Vec<FileInfo> = files.iter().filter(wanted).cloned().collect();
    if let Some(missing) =
        named.iter().flatten().find(|name| !files.is_empty() && !files.iter().any(|file| file.name == **name))
    {
        let why = "the index names it, but it is not there".to_owned();
        return Err(HeaderError::Safetensors { name: missing.clone(), why });
    }
    let mut stored = Stored::new();
    for file in &weights {
        for (name, tensor) in header(reader, file)? {
            let (group, share) = tensor.share(&name);
            merge(stored.entry(group).or_default(), share);
        }
    }
    Ok((stored, weights))
}

fn has_usual(files: &[FileInfo]) -> bool {
    files.iter().any(|file| file.name == "model.safetensors")
}

/// What a header says about a tensor.
#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

fn header(reader: &Reader<'_>, file: &FileInfo) -> Result<Vec<(String, Tensor)>, HeaderError> {
    let bad = |why: String| HeaderError::Safetensors { name: file.name.clone(), why };
    if file.bytes < 8 {
        return Err(bad(format!("it has {} bytes, fewer than a header", file.bytes)));
    }
    let prefix = reader.range(file, 0..8)?;
    let len = u64::from_le_bytes(prefix.try_into().expect("a range has the length asked for"));
    if len > MAX_HEADER || len > file.bytes - 8 {
        return Err(bad(format!("its header claims {len} bytes, the file has {}", file.bytes)));
    }
    let text = reader.range(file, 8..8 + len)?;
    let map: Map<String, Value> = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    let entries = map.into_iter().filter(|(name, _)| name != "__metadata__");
    entries
        .map(|(name, raw)| {
            let tensor: Tensor =
                serde_json::from_value(raw).map_err(|error| bad(format!("tensor {name:?}: {error}")))?;
            let [start, end] = tensor.data_offsets;
            if start > end || end > file.bytes - 8 - len {
                return Err(bad(format!("tensor {name:?} does not lie within the file")));
            }
            Ok((name, tensor))
        })
        .collect()
}

impl Tensor {
    /// What it is for and what it holds. Codes that are packed into words count as the codes that they are; scales and other
    /// companions of codes add bytes and no weights.
    fn share(&self, name: &str) -> (Group, TypeShare) {
        let elements = self.shape.iter().fold(1u64, |product, n| product.saturating_mul(*n));
        let bytes = self.data_offsets[1] - self.data_offsets[0];
        let group = group(name, self.shape.len());
        let companion =
            ["_scale", "_zero_point", "_g_idx", "_shape", ".scales", ".qzeros", ".g_idx", "_scale_inv"];
        if companion.iter().any(|suffix| name.ends_with(suffix)) {
            let of = if group == Group::Rest { self.dtype.clone() } else { "scales".to_owned() };
            return (group, TypeShare { dtype: of, elements: 0, bytes });
        }
        let packed = name.ends_with(".weight_packed") || name.ends_with(".qweight");
        match packed && self.dtype == "I32" {
            // Eight codes of four bits to a word: what most such files hold. Words of four codes of eight bits are told apart by
            // nothing in the header; their bytes are right.
            true => (group, TypeShare { dtype: "I4".into(), elements: elements.saturating_mul(8), bytes }),
            false => (group, TypeShare { dtype: self.dtype.clone(), elements, bytes }),
        }
    }
}

/// What a tensor of that name is for.
pub(super) fn group(name: &str, dims: usize) -> Group {
    let has = |part: &str| name.contains(part);
    if has("vision") || has("multi_modal") || has("visual.") || has("audio_tower") {
        Group::Rest
    } else if has("embed_tokens") || has("wte.") || has("tok_embeddings") {
        Group::Embedding
    } else if has("lm_head") {
        Group::Output
    } else if has(".experts.") {
        Group::Experts
    } else if (has("layers.") || has(".h.")) && (dims >= 2 || has("_proj.")) && !has(".bias") {
        Group::Layers
    } else {
        Group::Rest
    }
}
