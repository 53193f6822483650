//! What crosses the wire and what configures a model server: OpenAI JSON, SSE frames, errors, [`ServeConfig`].
//!
//! This crate decides shapes and ranges. It opens no socket, reads no environment and knows no engine; every
//! function here is pure, except [`config::ConfigFiles::read`], which reads the two files that users write.

pub mod config;
pub mod error;
pub mod openai;
pub mod sse;

pub use config::{ConfigFiles, ConfigProblem, PartialConfig, ServeConfig, resolve};
pub use error::ApiError;
