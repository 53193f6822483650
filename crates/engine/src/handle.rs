//! The only way into a running engine: submit, abort, look.

use std::sync::Arc;
use std::time::Instant;

use crate::request::Request;

/// Names one submitted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A cheap clone that any thread may hold. Dropping the last one ends the engine's thread after the
/// requests that it still runs.
#[derive(Clone)]
pub struct EngineHandle {
    _shared: Arc<()>,
}

/// Why a request was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The waiting queue is full: try again later (429).
    #[error("the waiting queue is full ({limit} requests)")]
    QueueFull {
        /// The queue's bound.
        limit: usize,
    },
    /// The prompt can never fit (400).
    #[error("the prompt has {tokens} tokens, more than this server's limit of {limit}")]
    PromptTooLong {
        /// Tokens in the prompt.
        tokens: usize,
        /// Most tokens that prompt and answer may have together.
        limit: usize,
    },
    /// A field that the engine cannot honour (400).
    #[error("{0}")]
    Invalid(String),
    /// The engine has stopped (503).
    #[error("the engine has stopped")]
    Stopped,
}

/// The engine's state at its last step; reading it never waits for a step.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Requests that have KV blocks and are being computed.
    pub running: usize,
    /// Requests accepted and not yet started, preempted ones included.
    pub waiting: usize,
    /// KV blocks in use by running requests (cached, evictable ones do not count) and in all.
    pub kv_blocks_used: usize,
    /// See `kv_blocks_used`.
    pub kv_blocks_total: usize,
    /// Tokens per KV block.
    pub kv_block_tokens: usize,
    /// Counters since start.
    pub totals: Totals,
    /// When the last step ended (or a request was accepted by an idle engine): with work queued and this
    /// long past, the engine is stuck.
    pub last_progress: Instant,
}

/// Counters since start; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Prompt tokens of started requests.
    pub prompt_tokens: u64,
    /// Generated tokens.
    pub generation_tokens: u64,
    /// Times a running request lost its KV blocks to another.
    pub preemptions: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_cache_queries: u64,
    /// Prompt tokens found there.
    pub prefix_cache_hits: u64,
    /// Steps of the forward pass.
    pub steps: u64,
    /// Tokens computed over all steps.
    pub step_tokens: u64,
}

impl EngineHandle {
    /// Queues a request without blocking.
    pub fn submit(&self, _request: Request) -> Result<RequestId, SubmitError> {
        Err(SubmitError::Stopped)
    }

    /// Ends a request with [`crate::FinishReason::Aborted`]; unknown ids are ignored.
    pub fn abort(&self, _id: RequestId) {}

    /// The engine's state at its last step.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            running: 0,
            waiting: 0,
            kv_blocks_used: 0,
            kv_blocks_total: 0,
            kv_block_tokens: 16,
            totals: Totals::default(),
            last_progress: Instant::now(),
        }
    }

    /// Most tokens that prompt and answer of one request may have together.
    pub fn max_model_len(&self) -> usize {
        0
    }
}
