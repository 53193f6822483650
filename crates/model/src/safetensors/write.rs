//! Decides where everything is in safetensors files that will be written: header bytes and the place of every tensor, and which file it
//! is in when one would be too large.

use std::ops::Range;

use serde_json::{Map, Value, json};

/// A tensor of a file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTensor {
    /// Name.
    pub name: String,
    /// Element type as the format names it (`BF16`, `I8`, `F8_E4M3`, …).
    pub dtype: &'static str,
    /// Extents, slowest first.
    pub shape: Vec<usize>,
    /// Bytes of its data.
    pub bytes: u64,
}

/// Where the parts of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What the file begins with.
    pub header: Vec<u8>,
    /// First byte of each tensor from the start of the file, in the order of the tensors.
    pub offsets: Vec<u64>,
    /// Bytes of the file.
    pub len: u64,
}

/// Lays out a file with `tensors`, one after the other.
pub fn layout(tensors: &[NewTensor]) -> Layout {
    let mut root = Map::new();
    root.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut ends = Vec::with_capacity(tensors.len());
    let mut at = 0;
    for NewTensor { name, dtype, shape, bytes } in tensors {
        let end = at + bytes;
        root.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]}));
        ends.push(at);
        at = end;
    }
    let mut text = serde_json::to_vec(&Value::Object(root)).expect("JSON values can be written");
    // Spaces may follow; the data then begins at a multiple of eight.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    let data = header.len() as u64;
    Layout { offsets: ends.into_iter().map(|start| data + start).collect(), len: data + at, header }
}

/// Bytes of tensors after which another file begins: what others write, and every hub takes.
pub const MOST_BYTES: u64 = 5_000_000_000;

/// Says which file of several a tensor is in.
pub const INDEX: &str = "model.safetensors.index.json";

/// Which of consecutive things of these sizes share a file: no more than `most` bytes, or one that has more alone.
pub fn shared(sizes: &[u64], most: u64) -> Vec<Range<usize>> {
    let mut files: Vec<Range<usize>> = Vec::new();
    let mut filled = 0;
    for (i, size) in sizes.iter().enumerate() {
        match files.last_mut() {
            Some(file) if filled + size <= most => (file.end, filled) = (i + 1, filled + size),
            _ => {
                files.push(i..i + 1);
                filled = *size;
            }
        }
    }
    files
}

/// The names of so many files.
pub fn file_names(count: usize) -> Vec<String> {
    match count {
        1 => vec!["model.safetensors".to_owned()],
        _ => (1..=count).map(|i| format!("model-{i:05}-of-{count:05}.safetensors")).collect(),
    }
}

/// What [`INDEX`] says of tensors in the files of these names.
pub fn index<'t>(tensors: impl IntoIterator<Item = (&'t str, &'t NewTensor)>) -> Vec<u8> {
    let mut places = Map::new();
    let mut bytes = 0;
    for (file, tensor) in tensors {
        places.insert(tensor.name.clone(), json!(file));
        bytes += tensor.bytes;
    }
    let index = json!({"metadata": {"total_size": bytes}, "weight_map": places});
    let mut text = serde_json::to_vec_pretty(&index).expect("JSON values can be written");
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use wharf_kernels::DType;

    use super::*;
    use crate::safetensors::parse_header;

    #[test]
    fn a_file_ends_where_the_next_tensor_would_be_too_much() {
        assert_eq!(shared(&[3, 4, 3, 20, 1, 9, 1], 10), [0..3, 3..4, 4..6, 6..7]);
        assert!(shared(&[], 10).is_empty());
        assert_eq!(file_names(1), ["model.safetensors"]);
        assert_eq!(file_names(12)[1], "model-00002-of-00012.safetensors");
        let tensor = NewTensor { name: "a".into(), dtype: "I8", shape: vec![5], bytes: 5 };
        let map = crate::safetensors::parse_index(&index([("one", &tensor)])).unwrap();
        assert_eq!(map["a"], "one");
    }

    #[test]
    fn what_is_laid_out_is_what_the_reader_finds() {
        let tensor = |name: &str, dtype, shape: &[usize], bytes| NewTensor {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
            bytes,
        };
        let tensors = [tensor("b", "BF16", &[3, 2], 12), tensor("a", "I8", &[5], 5)];
        let Layout { header, offsets, len } = layout(&tensors);
        let mut file = header;
        file.resize(len as usize, 0);
        let read = parse_header(&file).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].name.as_str(), &read[0].dtype), ("b", &Ok(DType::BF16)));
        assert_eq!((read[1].name.as_str(), &read[1].dtype), ("a", &Err("I8".to_owned())));
        for (entry, (tensor, offset)) in read.iter().zip(tensors.iter().zip(offsets)) {
            assert_eq!(
                (entry.offset as u64, entry.len as u64, &entry.shape),
                (offset, tensor.bytes, &tensor.shape)
            );
        }
    }
}
