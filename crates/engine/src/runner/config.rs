//! How an engine is told to bound its work, and why it may refuse.

use std::time::Duration;

use crate::speculation::Speculation;

/// How an engine bounds its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most tokens that prompt and answer of one request may have together.
    pub max_model_len: usize,
    /// Most requests computed at the same time.
    pub max_running: usize,
    /// Most tokens of one step.
    pub max_batch_tokens: usize,
    /// Most prompt tokens of a step that also decodes.
    pub prefill_tokens_while_decoding: usize,
    /// How long a step that also decodes should take at most: prompts join it in chunks sized to that, within
    /// `prefill_tokens_while_decoding`. `None` leaves it at that bound.
    pub inter_token_latency_target: Option<Duration>,
    /// Most requests that wait for their first step.
    pub max_waiting: usize,
    /// Reuse KV of earlier requests with the same beginning.
    pub prefix_caching: bool,
    /// When tokens are guessed; it changes no answer.
    pub speculation: Speculation,
}

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The KV memory cannot hold one request of the promised length.
    #[error(
        "the KV cache holds {capacity} tokens, less than max_model_len {max_model_len}; give it more memory or lower max_model_len"
    )]
    CacheTooSmall {
        /// Tokens that the KV cache holds.
        capacity: usize,
        /// The promised length.
        max_model_len: usize,
    },
    /// A bound is zero or contradicts another.
    #[error("invalid engine configuration: {0}")]
    Invalid(&'static str),
    /// The operating system refused a thread.
    #[error("failed to start the engine's thread")]
    Thread(#[source] std::io::Error),
}
