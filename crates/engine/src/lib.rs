//! Forward pass, paged KV cache, continuous batching and sampling.
//!
//! This crate decides which tokens are computed in which step and what comes out. It is synchronous: one
//! thread owns the engine, the outside speaks to it through [`EngineHandle`].

pub mod handle;
pub mod request;

pub use handle::{EngineHandle, Snapshot, SubmitError};
pub use request::{Event, EventSink, FinishReason, Logprobs, Request, SamplingParams, StopConditions, Usage};
