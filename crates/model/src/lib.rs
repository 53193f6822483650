//! From files to a described model: GGUF and safetensors, architecture, tokenizer, chat template.
//!
//! This crate decides what a checkpoint *is*; it never computes with it. Everything read here is foreign
//! bytes: each length is checked against the file before it is used.

pub mod config;
pub mod gguf;

pub use config::ModelConfig;
