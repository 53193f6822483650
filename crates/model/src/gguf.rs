//! Reads GGUF files (version 2 and 3): metadata and a tensor directory over mapped bytes.

pub mod metadata;
mod parse;
mod split;

pub use metadata::{Array, Metadata, Value};
pub use parse::{Gguf, GgufError, TensorInfo, parse};
pub use split::{SplitName, split_name};
