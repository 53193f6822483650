//! Reads GGUF files (version 2 and 3): metadata and a tensor directory over mapped bytes. Lays out new ones (version 3).

mod error;
pub mod metadata;
mod parse;
mod split;
pub mod write;

pub use error::GgufError;
pub use metadata::{Array, Metadata, Value};
pub use parse::{Gguf, TensorInfo, parse, parse_front};
pub use split::{SplitName, split_name};
