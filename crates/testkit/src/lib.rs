//! Development only: tiny models and fakes for tests. Nothing that ships depends on it.

pub mod fixtures;
pub mod gguf;
mod noise;
mod tiny;
mod vocabulary;

pub use noise::noise;
pub use tiny::TinyModel;
pub use vocabulary::{CHAT_TEMPLATE, Vocabulary};
