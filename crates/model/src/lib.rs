//! From files to a described model: GGUF and safetensors, architecture, tokenizer, chat template.
//!
//! This crate decides what a checkpoint *is*; it never computes with it. Everything read here is foreign
//! bytes: each length is checked against the file before it is used.

pub mod arch;
pub mod chat_template;
pub mod compressed;
pub mod config;
pub mod export;
pub mod generation;
pub mod gguf;
pub mod inspect;
pub mod mmap;
pub mod open;
pub mod role;
mod rope;
pub mod safetensors;
pub mod shard;
pub mod tokenizer;
pub mod weights;

pub use chat_template::{ChatInput, ChatTemplate, ChatTemplateError};
pub use config::ModelConfig;
pub use generation::GenerationDefaults;
pub use mmap::MappedFile;
pub use open::{Format, Model, OpenError, OpenOptions, Source, SourceInfo};
pub use role::Role;
pub use tokenizer::{DecodeStream, EncodeOptions, Tokenizer, TokenizerError};
pub use weights::{StoredTensor, TensorView, Weights, WeightsError};
