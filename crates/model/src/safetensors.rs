//! Reads the header of safetensors files and the index of sharded ones; the format itself is parsed by the
//! `safetensors` crate, which checks offsets, sizes and overlaps against the file.

pub mod write;

use std::collections::BTreeMap;

use serde_json::Value;
use thiserror::Error;
use wharf_kernels::DType;

use ::safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};

/// One tensor of a safetensors file; `offset..offset + len` lies within the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name, unique within the file.
    pub name: String,
    /// Element type, or the name of one that we do not read.
    pub dtype: Result<DType, String>,
    /// Extents, slowest first; empty for a scalar.
    pub shape: Vec<usize>,
    /// First byte of the data from the start of the file.
    pub offset: usize,
    /// Bytes of data.
    pub len: usize,
}

/// Why bytes are not a safetensors file or index.
#[derive(Debug, Error)]
pub enum SafetensorsError {
    /// The header's length prefix and the file contradict each other.
    #[error("the header claims {claimed} bytes, but the file has {size}; download it again")]
    HeaderLength {
        /// Bytes that the prefix claims.
        claimed: u64,
        /// Size of the file.
        size: usize,
    },
    /// The tensors do not fill the file exactly.
    #[error("the tensors do not end where the file of {size} bytes does; download it again")]
    Incomplete {
        /// Size of the file.
        size: usize,
    },
    /// The header is malformed.
    #[error("the header is malformed")]
    Header(#[source] SafeTensorError),
    /// The index is malformed.
    #[error("malformed shard index: {0}")]
    Index(String),
}

/// Parses the header of `bytes`, a whole file; entries come in the order of their data.
pub fn parse_header(bytes: &[u8]) -> Result<Vec<Entry>, SafetensorsError> {
    let size = bytes.len();
    let (header_len, metadata) = SafeTensors::read_metadata(bytes).map_err(|source| match source {
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::HeaderTooLarge
        | SafeTensorError::InvalidHeaderLength => {
            let claimed = bytes.first_chunk::<8>().map_or(0, |prefix| u64::from_le_bytes(*prefix));
            SafetensorsError::HeaderLength { claimed, size }
        }
        SafeTensorError::MetadataIncompleteBuffer => SafetensorsError::Incomplete { size },
        other => SafetensorsError::Header(other),
    })?;
    let data_start = 8 + header_len;
    let mut entries: Vec<Entry> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| Entry {
            name,
            dtype: dtype(info.dtype),
            shape: info.shape.clone(),
            offset: data_start + info.data_offsets.0,
            len: info.data_offsets.1 - info.data_offsets.0,
        })
        .collect();
    entries.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
    Ok(entries)
}

fn dtype(dtype: Dtype) -> Result<DType, String> {
    match dtype {
        Dtype::F32 => Ok(DType::F32),
        Dtype::F16 => Ok(DType::F16),
        Dtype::BF16 => Ok(DType::BF16),
        other => Err(format!("{other:?}")),
    }
}

/// The index of a sharded checkpoint: file name by tensor name (`weight_map`). File names are plain names:
/// an index cannot point out of its folder.
pub fn parse_index(json: &[u8]) -> Result<BTreeMap<String, String>, SafetensorsError> {
    let bad = |why: String| SafetensorsError::Index(why);
    let root: Value = serde_json::from_slice(json).map_err(|error| bad(error.to_string()))?;
    let map = root.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| bad("there is no object \"weight_map\"".into()))?;
    if map.is_empty() {
        return Err(bad("\"weight_map\" is empty".into()));
    }
    map.iter()
        .map(|(tensor, file)| match file.as_str() {
            Some(name) if is_plain_name(name) => Ok((tensor.clone(), name.to_owned())),
            _ => Err(bad(format!(
                "tensor {tensor:?} is in {file}, which is not the name of a file in the folder"
            ))),
        })
        .collect()
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests;
