//! What crosses the wire and what configures a model server: OpenAI JSON, SSE frames, errors, [`ServeConfig`], and how models' sources are
//! written ([`SourceUrl`]).
//!
//! This crate decides shapes and ranges. It opens no socket, reads no environment and knows no engine; every
//! function here is pure, except [`config::ConfigFiles::read`], which reads the two files that users write.

pub mod config;
pub mod console;
pub mod demand;
pub mod digest;
pub mod error;
pub mod openai;
pub mod source;
pub mod sse;

pub use config::{ConfigFiles, ConfigProblem, PartialConfig, ServeConfig, resolve};
pub use digest::Digest;
pub use error::ApiError;
pub use source::SourceUrl;
