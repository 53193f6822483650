//! Reads GGUF files (version 2 and 3): metadata and a tensor directory over mapped bytes.

mod error;
pub mod metadata;
mod parse;
mod split;

pub use error::GgufError;
pub use metadata::{Array, Metadata, Value};
pub use parse::{Gguf, TensorInfo, parse, without_tensors};
pub use split::{SplitName, split_name};
