//! Decides what a GGUF file says: header, metadata, tensor directory (GGUF specification, ggml `docs/gguf.md`).
//!
//! The bytes are foreign: every length is checked against what is left of the file before it is used, and
//! decoded metadata is bounded, so the memory that a file can demand is a small multiple of its own size.

use std::collections::{BTreeMap, HashSet};

use wharf_kernels::DType;

use super::error::{GgufError, type_name};
use super::metadata::{Array, Metadata, Value};
use super::write;

/// Array elements that all metadata of a file may hold together. Vocabularies with merges and scores take
/// about two million; a decoded element takes at most 24 bytes beside its text.
pub(super) const MAX_ARRAY_ELEMENTS: usize = 1 << 24;

/// Most dimensions of a tensor (`GGML_MAX_DIMS`).
pub(super) const MAX_DIMS: u32 = 4;

/// Alignment of tensor data when `general.alignment` is absent, bytes.
const DEFAULT_ALIGNMENT: u64 = 32;

/// One parsed GGUF file.
#[derive(Clone, Debug, PartialEq)]
pub struct Gguf {
    /// Format version: 2 or 3.
    pub version: u32,
    /// Alignment of tensor data, bytes.
    pub alignment: usize,
    /// The key-value section.
    pub metadata: Metadata,
    /// The tensor directory in file order.
    pub tensors: Vec<TensorInfo>,
}

/// One entry of the tensor directory; `offset..offset + len` lies within the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique within the file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents, slowest dimension first (the reverse of the file): `[rows, cols]` for a matrix.
    pub shape: Vec<usize>,
    /// First byte of the data from the start of the file.
    pub offset: usize,
    /// Bytes of data.
    pub len: usize,
}

/// What stands before the metadata.
struct Preamble {
    version: u32,
    n_tensors: u64,
    n_keys: u64,
}

fn read_preamble(bytes: &[u8]) -> Result<(Preamble, Cursor<'_>), GgufError> {
    let mut cursor = Cursor { bytes, at: 0, elements_left: MAX_ARRAY_ELEMENTS };
    let magic = bytes.get(..4).unwrap_or(bytes);
    if magic != b"GGUF" {
        return Err(GgufError::Magic { found: magic.to_vec() });
    }
    cursor.at = 4;
    let version = cursor.u32("the version")?;
    if version != 0 && version & 0xffff == 0 {
        return Err(GgufError::BigEndian);
    }
    if !matches!(version, 2 | 3) {
        return Err(GgufError::Version(version));
    }
    let n_tensors = cursor.u64("the tensor count")?;
    let n_keys = cursor.u64("the metadata count")?;
    Ok((Preamble { version, n_tensors, n_keys }, cursor))
}

/// Parses the header, metadata and tensor directory of `bytes`, a whole file.
pub fn parse(bytes: &[u8]) -> Result<Gguf, GgufError> {
    parse_front(bytes, bytes.len())
}

/// As [`parse`], of the front of a file of `size` bytes, whose tensors need not be there. A front that ends too early is
/// [`GgufError::Truncated`]: a longer one may do.
pub fn parse_front(bytes: &[u8], size: usize) -> Result<Gguf, GgufError> {
    let (Preamble { version, n_tensors, n_keys }, mut cursor) = read_preamble(bytes)?;
    let metadata = read_metadata(&mut cursor, n_keys)?;
    let alignment = alignment(&metadata)?;
    let entries = read_directory(&mut cursor, n_tensors)?;
    let data_start = (cursor.at as u64).next_multiple_of(alignment);
    let tensors = entries
        .into_iter()
        .map(|entry| entry.locate(data_start, alignment, size))
        .collect::<Result<Vec<_>, _>>()?;
    refuse_overlap(&tensors)?;
    Ok(Gguf { version, alignment: alignment as usize, metadata, tensors })
}

/// The metadata in the order and widths of the file.
pub(super) fn read_entries(bytes: &[u8]) -> Result<Vec<write::Entry>, GgufError> {
    let (Preamble { n_keys, .. }, mut cursor) = read_preamble(bytes)?;
    let mut entries = Vec::new();
    for index in 0..n_keys {
        let key = read_key(&mut cursor, index, n_keys)?;
        let start = cursor.at;
        read_value(&mut cursor, &key)?;
        entries.push(write::Entry::raw(key, bytes[start..cursor.at].to_vec()));
    }
    Ok(entries)
}

fn read_key(cursor: &mut Cursor<'_>, index: u64, count: u64) -> Result<String, GgufError> {
    cursor.string(|| format!("metadata key {index} of {count}"))
}

fn read_metadata(cursor: &mut Cursor<'_>, n_keys: u64) -> Result<Metadata, GgufError> {
    let mut map = BTreeMap::new();
    for index in 0..n_keys {
        let at = cursor.at;
        let key = read_key(cursor, index, n_keys)?;
        let value = read_value(cursor, &key)?;
        if map.contains_key(&key) {
            return Err(GgufError::DuplicateKey { key, at });
        }
        map.insert(key, value);
    }
    Ok(Metadata(map))
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U64(n)) if n.is_power_of_two() && (8..=1 << 20).contains(n) => Ok(*n),
        Some(Value::U64(n)) => Err(GgufError::Alignment(n.to_string())),
        Some(_) => Err(GgufError::Alignment("not an unsigned integer".to_owned())),
    }
}

fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, GgufError> {
    let at = cursor.at;
    let what = format!("the value of {key:?}");
    let kind = cursor.u32(&what)?;
    Ok(match kind {
        0 => Value::U64(cursor.array::<1>(&what)?[0].into()),
        1 => Value::I64(i8::from_le_bytes(cursor.array(&what)?).into()),
        2 => Value::U64(u16::from_le_bytes(cursor.array(&what)?).into()),
        3 => Value::I64(i16::from_le_bytes(cursor.array(&what)?).into()),
        4 => Value::U64(cursor.u32(&what)?.into()),
        5 => Value::I64(i32::from_le_bytes(cursor.array(&what)?).into()),
        6 => Value::F64(f32::from_le_bytes(cursor.array(&what)?).into()),
        7 => Value::Bool(bool_value(cursor.array::<1>(&what)?[0], key, at + 4)?),
        8 => Value::Str(cursor.string(|| what.clone())?),
        9 => Value::Array(read_array(cursor, key)?),
        10 => Value::U64(cursor.u64(&what)?),
        11 => Value::I64(i64::from_le_bytes(cursor.array(&what)?)),
        12 => Value::F64(f64::from_le_bytes(cursor.array(&what)?)),
        found => return Err(GgufError::ValueType { key: key.to_owned(), found, at }),
    })
}

fn bool_value(found: u8, key: &str, at: usize) -> Result<bool, GgufError> {
    match found {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(GgufError::Bool { key: key.to_owned(), found, at }),
    }
}

fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Array, GgufError> {
    let at = cursor.at;
    let what = format!("the array {key:?}");
    let kind = cursor.u32(&what)?;
    let count = cursor.u64(&what)?;
    let within = usize::try_from(count).ok().filter(|n| *n <= cursor.elements_left);
    // A file too short for its array is truncated, whatever the array's length; only arrays that the file
    // really holds are measured against the bound.
    let smallest: u64 = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => return Err(GgufError::NestedArray { key: key.to_owned(), at }),
        found => return Err(GgufError::ValueType { key: key.to_owned(), found, at }),
    };
    cursor.need(count.saturating_mul(smallest), &what)?;
    let count = within.ok_or_else(|| GgufError::TooMuchMetadata { key: key.to_owned(), at })?;
    cursor.elements_left -= count;
    Ok(match kind {
        0 => Array::U64(cursor.list::<1, _>(count, &what, |b| b[0].into())?),
        1 => Array::I64(cursor.list(count, &what, |b| i8::from_le_bytes(b).into())?),
        2 => Array::U64(cursor.list(count, &what, |b| u16::from_le_bytes(b).into())?),
        3 => Array::I64(cursor.list(count, &what, |b| i16::from_le_bytes(b).into())?),
        4 => Array::U64(cursor.list(count, &what, |b| u32::from_le_bytes(b).into())?),
        5 => Array::I64(cursor.list(count, &what, |b| i32::from_le_bytes(b).into())?),
        6 => Array::F32(cursor.list(count, &what, f32::from_le_bytes)?),
        7 => {
            let start = cursor.at;
            let bytes = cursor.list::<1, _>(count, &what, |b| b[0])?;
            let flags = bytes.iter().enumerate().map(|(i, b)| bool_value(*b, key, start + i));
            Array::Bool(flags.collect::<Result<_, _>>()?)
        }
        8 => {
            let item = |index| move || format!("element {index} of the array {key:?}");
            Array::Str((0..count).map(|index| cursor.string(item(index))).collect::<Result<_, _>>()?)
        }
        10 => Array::U64(cursor.list(count, &what, u64::from_le_bytes)?),
        11 => Array::I64(cursor.list(count, &what, i64::from_le_bytes)?),
        _ => Array::F64(cursor.list(count, &what, f64::from_le_bytes)?),
    })
}

/// A directory entry before the start of the data section is known.
struct Entry {
    name: String,
    dtype: DType,
    /// Extents as stored: fastest dimension first.
    dims: Vec<u64>,
    /// From the start of the data section.
    offset: u64,
}

fn read_directory(cursor: &mut Cursor<'_>, n_tensors: u64) -> Result<Vec<Entry>, GgufError> {
    let mut entries = Vec::new();
    let mut names = HashSet::new();
    for index in 0..n_tensors {
        let name = cursor.string(|| format!("the name of tensor {index} of {n_tensors}"))?;
        let what = format!("the directory entry of tensor {name:?}");
        let n_dims = cursor.u32(&what)?;
        if !(1..=MAX_DIMS).contains(&n_dims) {
            return Err(GgufError::Dimensions { name, found: n_dims });
        }
        let dims = (0..n_dims).map(|_| cursor.u64(&what)).collect::<Result<Vec<_>, _>>()?;
        let type_id = cursor.u32(&what)?;
        let offset = cursor.u64(&what)?;
        let Some(dtype) = DType::from_ggml(type_id) else {
            return Err(GgufError::TensorType { name, found: type_name(type_id) });
        };
        if !names.insert(name.clone()) {
            return Err(GgufError::DuplicateTensor(name));
        }
        entries.push(Entry { name, dtype, dims, offset });
    }
    Ok(entries)
}

impl Entry {
    /// Turns relative offsets into a checked range of the file.
    fn locate(self, data_start: u64, alignment: u64, size: usize) -> Result<TensorInfo, GgufError> {
        let Entry { name, dtype, dims, offset } = self;
        let Some((shape, len)) = extents(dtype, &dims) else {
            return Err(GgufError::Shape { name, shape: dims, dtype });
        };
        if !offset.is_multiple_of(alignment) {
            return Err(GgufError::Unaligned { name, offset, alignment });
        }
        let start = data_start.saturating_add(offset);
        let end = start.saturating_add(len as u64);
        if end > size as u64 {
            return Err(GgufError::OutOfFile { name, start, end, size });
        }
        Ok(TensorInfo { name, dtype, shape, offset: start as usize, len })
    }
}

/// Extents slowest first, and bytes; `None` when an extent is zero, rows are not whole blocks, or the
/// product overflows.
fn extents(dtype: DType, dims: &[u64]) -> Option<(Vec<usize>, usize)> {
    let mut shape = dims.iter().map(|n| usize::try_from(*n).ok()).collect::<Option<Vec<_>>>()?;
    let row = dtype.bytes_for(*shape.first()?)?;
    let len = shape[1..].iter().try_fold(row, |bytes, n| bytes.checked_mul(*n))?;
    shape.reverse();
    (len > 0).then_some((shape, len))
}

fn refuse_overlap(tensors: &[TensorInfo]) -> Result<(), GgufError> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].len > pair[1].offset {
            return Err(GgufError::Overlap {
                first: pair[0].name.clone(),
                second: pair[1].name.clone(),
                at: pair[1].offset,
            });
        }
    }
    Ok(())
}

/// A reading position; every read is checked against the end of the file first.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    elements_left: usize,
}

impl<'a> Cursor<'a> {
    fn need(&self, needed: u64, what: &str) -> Result<(), GgufError> {
        let left = (self.bytes.len() - self.at) as u64;
        if needed <= left {
            return Ok(());
        }
        Err(GgufError::Truncated { what: what.to_owned(), at: self.at, needed, size: self.bytes.len() })
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], GgufError> {
        self.need(len as u64, what)?;
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        Ok(self.take(N, what)?.try_into().expect("take returns exactly N bytes"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A string is its length as `u64` and its bytes. The description is only formatted for an error.
    fn string(&mut self, what: impl Fn() -> String) -> Result<String, GgufError> {
        let start = self.at;
        let Some(prefix) = self.bytes[start..].first_chunk::<8>() else {
            return Err(GgufError::Truncated { what: what(), at: start, needed: 8, size: self.bytes.len() });
        };
        self.at += 8;
        let len = u64::from_le_bytes(*prefix);
        let left = self.bytes.len() - self.at;
        let Some(len) = usize::try_from(len).ok().filter(|len| *len <= left) else {
            return Err(GgufError::Truncated {
                what: what(),
                at: self.at,
                needed: len,
                size: self.bytes.len(),
            });
        };
        let at = self.at;
        self.at += len;
        let text = str::from_utf8(&self.bytes[at..at + len]);
        text.map(str::to_owned).map_err(|_| GgufError::Text { what: what(), at })
    }

    /// `count` elements of `N` bytes each.
    fn list<const N: usize, T>(
        &mut self,
        count: usize,
        what: &str,
        decode: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, GgufError> {
        let len = count.checked_mul(N).expect("count is at most MAX_ARRAY_ELEMENTS");
        let (chunks, _) = self.take(len, what)?.as_chunks::<N>();
        Ok(chunks.iter().map(|chunk| decode(*chunk)).collect())
    }
}

#[cfg(test)]
mod tests;
