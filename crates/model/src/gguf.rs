//! Reads GGUF files (version 2 and 3): metadata and a tensor directory over mapped bytes.

pub mod metadata;

pub use metadata::{Array, Metadata, Value};
