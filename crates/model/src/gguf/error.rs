//! Says why bytes are not a GGUF file that we read, where, and what to do about it.

use thiserror::Error;
use wharf_kernels::DType;

use super::parse::{MAX_ARRAY_ELEMENTS, MAX_DIMS};

/// Why bytes are not a GGUF file that we read. `at` counts bytes from the start of the file.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GgufError {
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: it starts with {found:02x?} instead of \"GGUF\"")]
    Magic {
        /// The first bytes, at most four.
        found: Vec<u8>,
    },
    /// A version other than 2 and 3.
    #[error(
        "GGUF version {0} is not supported (2 and 3 are); convert the model again with a current llama.cpp"
    )]
    Version(u32),
    /// Written on a big-endian machine.
    #[error("the file is big-endian; convert it with gguf-py's gguf_convert_endian to little-endian")]
    BigEndian,
    /// The file ends inside something.
    #[error(
        "the file ends at byte {size} inside {what}, which starts at byte {at} and needs {needed} bytes; download it again"
    )]
    Truncated {
        /// What was being read.
        what: String,
        /// Where it starts.
        at: usize,
        /// Bytes that it needs.
        needed: u64,
        /// Size of the file.
        size: usize,
    },
    /// Text that is not UTF-8.
    #[error("{what} at byte {at} is not UTF-8")]
    Text {
        /// What was being read.
        what: String,
        /// Where it starts.
        at: usize,
    },
    /// A metadata key that appears twice.
    #[error("metadata key {key:?} at byte {at} appears twice")]
    DuplicateKey {
        /// The key.
        key: String,
        /// Where its second appearance starts.
        at: usize,
    },
    /// A value type that the specification does not know.
    #[error("metadata key {key:?} has unknown value type {found} at byte {at}")]
    ValueType {
        /// The key.
        key: String,
        /// The type number.
        found: u32,
        /// Where the type number is.
        at: usize,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("metadata key {key:?} holds boolean {found} at byte {at}; only 0 and 1 are valid")]
    Bool {
        /// The key.
        key: String,
        /// The byte.
        found: u8,
        /// Where it is.
        at: usize,
    },
    /// An array of arrays.
    #[error("metadata key {key:?} at byte {at} is an array of arrays, which no known model needs")]
    NestedArray {
        /// The key.
        key: String,
        /// Where the array starts.
        at: usize,
    },
    /// More array elements than any model needs.
    #[error(
        "metadata arrays hold more than {MAX_ARRAY_ELEMENTS} elements together, at key {key:?}, byte {at}"
    )]
    TooMuchMetadata {
        /// The key that exceeds the bound.
        key: String,
        /// Where its array starts.
        at: usize,
    },
    /// `general.alignment` is unusable.
    #[error("general.alignment is {0}; it must be a power of two, at least 8 and at most 1 MiB")]
    Alignment(String),
    /// A tensor name that appears twice.
    #[error("tensor {0:?} appears twice in the directory")]
    DuplicateTensor(String),
    /// A tensor with no or too many dimensions.
    #[error("tensor {name:?} has {found} dimensions; 1 to {MAX_DIMS} are valid")]
    Dimensions {
        /// The tensor.
        name: String,
        /// Its number of dimensions.
        found: u32,
    },
    /// A tensor type that we do not read.
    #[error(
        "tensor {name:?} has type {found}, which is not supported; supported: {}; quantize the model to one of these",
        supported_types()
    )]
    TensorType {
        /// The tensor.
        name: String,
        /// Number and, where known, name of the type.
        found: String,
    },
    /// Extents that are zero, overflow, or do not fill whole blocks.
    #[error(
        "tensor {name:?} has shape {shape:?} (fastest dimension first), which is impossible for type {dtype}"
    )]
    Shape {
        /// The tensor.
        name: String,
        /// Extents as the file orders them.
        shape: Vec<u64>,
        /// Its type.
        dtype: DType,
    },
    /// Tensor data at an unaligned offset.
    #[error(
        "tensor {name:?} starts at data offset {offset}, which is not a multiple of the alignment {alignment}"
    )]
    Unaligned {
        /// The tensor.
        name: String,
        /// Offset from the start of the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// Tensor data beyond the end of the file.
    #[error("tensor {name:?} takes bytes {start} to {end}, but the file has {size}; download it again")]
    OutOfFile {
        /// The tensor.
        name: String,
        /// First byte.
        start: u64,
        /// One past its last byte.
        end: u64,
        /// Size of the file.
        size: usize,
    },
    /// Two tensors that share bytes.
    #[error("tensors {first:?} and {second:?} overlap at byte {at}")]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The tensor that starts inside it.
        second: String,
        /// Where the second starts.
        at: usize,
    },
}

fn supported_types() -> String {
    DType::ALL.map(DType::name).join(", ")
}

/// Number and name of a tensor type that we do not read (`enum ggml_type`).
pub(super) fn type_name(id: u32) -> String {
    let name = match id {
        4 | 5 => "Q4_2 or Q4_3, removed from ggml",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => "unknown",
    };
    format!("{id} ({name})")
}
