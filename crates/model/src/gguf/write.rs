//! Decides where everything is in a GGUF file that will be written: header bytes and the place of every tensor.
//!
//! Writing version 3 (GGUF specification, ggml `docs/gguf.md`). Values keep the width they were read with, because llama.cpp
//! refuses a key of another width than it expects.

use wharf_kernels::DType;

use super::error::GgufError;
use super::parse::read_entries;

/// Alignment of tensor data, bytes.
const ALIGNMENT: u64 = 32;

/// A key with its value as the file holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Number of the value's type and its bytes.
    value: Vec<u8>,
}

impl Entry {
    /// A key with a value.
    pub fn new(key: impl Into<String>, value: impl EntryValue) -> Entry {
        let mut bytes = Vec::new();
        value.write(&mut bytes);
        Entry { key: key.into(), value: bytes }
    }

    pub(super) fn raw(key: String, value: Vec<u8>) -> Entry {
        Entry { key, value }
    }
}

/// The metadata of `bytes`, a whole GGUF file, in its order and widths.
///
/// # Errors
/// When the bytes are not such a file.
pub fn entries(bytes: &[u8]) -> Result<Vec<Entry>, GgufError> {
    read_entries(bytes)
}

/// Gives `key` this value: in its place if it is there, else at the end.
pub fn set(entries: &mut Vec<Entry>, key: &str, value: impl EntryValue) {
    let new = Entry::new(key, value);
    match entries.iter_mut().find(|entry| entry.key == key) {
        Some(entry) => *entry = new,
        None => entries.push(new),
    }
}

/// What can be the value of a key.
pub trait EntryValue {
    /// Appends the number of the type and the bytes.
    fn write(&self, out: &mut Vec<u8>);
}

macro_rules! scalar {
    ($($type:ty: $id:literal),*) => {$(
        impl EntryValue for $type {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend(u32::to_le_bytes($id));
                out.extend(self.to_le_bytes());
            }
        }

        impl EntryValue for &[$type] {
            fn write(&self, out: &mut Vec<u8>) {
                array_head($id, self.len(), out);
                self.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
        }
    )*};
}

scalar!(u32: 4, i32: 5, f32: 6, u64: 10);

impl EntryValue for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(7u32.to_le_bytes());
        out.push(u8::from(*self));
    }
}

impl EntryValue for &str {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(8u32.to_le_bytes());
        text(self, out);
    }
}

impl EntryValue for &[String] {
    fn write(&self, out: &mut Vec<u8>) {
        array_head(8, self.len(), out);
        self.iter().for_each(|value| text(value, out));
    }
}

fn array_head(element: u32, len: usize, out: &mut Vec<u8>) {
    out.extend(9u32.to_le_bytes());
    out.extend(element.to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

fn text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A tensor of a file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTensor {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents, slowest first; rows are whole blocks of the type.
    pub shape: Vec<usize>,
}

/// Where the parts of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What the file begins with.
    pub header: Vec<u8>,
    /// First byte of each tensor from the start of the file, in the order of the tensors.
    pub offsets: Vec<u64>,
    /// Bytes of the file; what no tensor covers after the header is zero.
    pub len: u64,
}

/// Lays out a file with `entries` and `tensors`. A `general.alignment` among the entries is dropped: the default holds.
///
/// # Panics
/// When a tensor's rows are not whole blocks.
pub fn layout(entries: &[Entry], tensors: &[NewTensor]) -> Layout {
    let entries: Vec<&Entry> = entries.iter().filter(|entry| entry.key != "general.alignment").collect();
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((entries.len() as u64).to_le_bytes());
    for entry in entries {
        text(&entry.key, &mut header);
        header.extend(&entry.value);
    }
    let mut ends = Vec::with_capacity(tensors.len());
    let mut offset = 0u64;
    for tensor in tensors {
        text(&tensor.name, &mut header);
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|extent| header.extend((*extent as u64).to_le_bytes()));
        header.extend(tensor.dtype.ggml().to_le_bytes());
        header.extend(offset.to_le_bytes());
        let start = offset;
        offset += tensor.bytes() as u64;
        ends.push((start, offset));
        offset = offset.next_multiple_of(ALIGNMENT);
    }
    header.resize((header.len() as u64).next_multiple_of(ALIGNMENT) as usize, 0);
    let data = header.len() as u64;
    // Readers that check sizes want the padding of the last tensor too.
    Layout { offsets: ends.iter().map(|(start, _)| data + start).collect(), len: data + offset, header }
}

impl NewTensor {
    /// Bytes of its data.
    pub fn bytes(&self) -> usize {
        let (cols, rest) = self.shape.split_last().expect("a tensor has an extent");
        let row = self.dtype.bytes_for(*cols).expect("rows are whole blocks");
        row * rest.iter().product::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Value, parse};

    fn file(entries: &[Entry], tensors: &[NewTensor]) -> Vec<u8> {
        let Layout { header, len, .. } = layout(entries, tensors);
        let mut bytes = header;
        bytes.resize(len as usize, 0);
        bytes
    }

    #[test]
    fn what_is_laid_out_is_what_the_reader_finds() {
        let mut entries = vec![
            Entry::new("general.architecture", "llama"),
            Entry::new("llama.block_count", 2u32),
            Entry::new("tokens", ["a".to_owned(), "b".to_owned()].as_slice()),
            Entry::new("scores", [1.5f32, -2.0].as_slice()),
            Entry::new("tied", true),
        ];
        set(&mut entries, "llama.block_count", 3u32);
        set(&mut entries, "general.file_type", 7u32);
        let tensor = |name: &str, dtype, shape: &[usize]| NewTensor {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
        };
        let tensors = [tensor("norm", DType::F32, &[3]), tensor("w", DType::Q8_0, &[3, 32])];
        let bytes = file(&entries, &tensors);
        let read = parse(&bytes).unwrap();
        assert_eq!(read.metadata.u64("llama.block_count"), Some(3));
        assert_eq!(read.metadata.u64("general.file_type"), Some(7));
        assert_eq!(read.metadata.get("tied"), Some(&Value::Bool(true)));
        assert_eq!(read.metadata.strings("tokens").unwrap(), ["a", "b"]);
        let Layout { offsets, .. } = layout(&entries, &tensors);
        for ((read, wanted), offset) in read.tensors.iter().zip(&tensors).zip(offsets) {
            assert_eq!((&read.name, read.dtype, &read.shape), (&wanted.name, wanted.dtype, &wanted.shape));
            assert_eq!((read.offset as u64, read.len), (offset, wanted.bytes()));
        }
    }

    #[test]
    fn entries_that_are_read_and_written_keep_every_byte() {
        let first = file(
            &[
                Entry::new("a", 1u32),
                Entry::new("b", 2u64),
                Entry::new("c", [3i32, -4].as_slice()),
                Entry::new("d", "text"),
            ],
            &[],
        );
        assert_eq!(file(&entries(&first).unwrap(), &[]), first);
    }
}
