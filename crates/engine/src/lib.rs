//! Forward pass, paged KV cache, continuous batching and sampling.
//!
//! This crate decides which tokens are computed in which step and what comes out. It is synchronous: one
//! thread owns the engine, the outside speaks to it through [`EngineHandle`].

pub mod backend;
pub mod cpu;
pub mod handle;
pub mod kv;
mod prefill;
pub mod random;
pub mod ranks;
pub mod request;
pub mod rope;
pub mod runner;
pub mod sampler;
pub mod scheduler;
pub mod speculation;

pub use backend::{BLOCK_TOKENS, Backend, BackendError, BlockId, Chunk, Logits, LogitsFor, check_chunks};
pub use handle::{EngineHandle, RequestId, Snapshot, StepObserver, SubmitError, Totals};
pub use ranks::{Grain, Ranks};
pub use request::{Event, EventSink, FinishReason, Logprobs, Request, SamplingParams, StopConditions, Usage};
pub use runner::{EngineConfig, StartError, start};
pub use speculation::Speculation;
