//! From files to a described model: GGUF and safetensors, architecture, tokenizer, chat template.
//!
//! This crate decides what a checkpoint *is*; it never computes with it. Everything read here is foreign
//! bytes: each length is checked against the file before it is used.

pub mod chat_template;
pub mod config;
pub mod gguf;
pub mod tokenizer;

pub use chat_template::{ChatInput, ChatTemplate, ChatTemplateError};
pub use config::ModelConfig;
pub use tokenizer::{DecodeStream, EncodeOptions, Tokenizer, TokenizerError};
