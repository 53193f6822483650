//! What a simulated engine can do: the time of a step and the room for keys and values.
//!
//! A step takes
//!
//! ```text
//! step + prefill · prompt tokens + pair · Σ (prompt token · tokens before it) + row · answers + context · Σ tokens that answers attend to
//! ```
//!
//! The last term is what makes long conversations slow to answer, and the pairs what makes long prompts more than proportionally slow.

use serde::{Deserialize, Serialize};

/// Tokens of a block of the engine's prefix cache.
pub const BLOCK_TOKENS: u32 = 16;

/// An engine with chunked prefill and continuous batching: one budget of tokens for each step, answers first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Engine {
    /// Of a step, in seconds: weights are read once.
    pub step_seconds: f64,
    /// Of a token of a prompt, in seconds.
    pub prefill_seconds: f64,
    /// Of a token of a prompt and a token before it, in seconds.
    pub pair_seconds: f64,
    /// Of an answer that gets a token, in seconds.
    pub row_seconds: f64,
    /// Of a token that an answer attends to, in seconds.
    pub context_seconds: f64,
    /// Tokens of a step at most.
    pub budget: u32,
    /// Requests in a step at most.
    pub max_running: u32,
    /// Tokens whose keys and values there is room for, in use or cached.
    pub kv_tokens: u32,
    /// Adapters that are loaded at the same time.
    pub adapters: u32,
    /// Of loading one, in seconds.
    pub adapter_seconds: f64,
}

impl Engine {
    /// Wharf's own engine with SmolLM2-135M on two cores, fitted to the rows of docs/performance.md for Zen 4 and Q4_0: one, eight and 32
    /// streams at 324, 1,032 and 1,325 tokens a second give 2.4 ms a step and 0.675 ms a row, of which 0.1 ms is context; one stream at a context of 4,096 at
    /// 89.9 gives 2 µs a token of context; a prompt of 512 at 1,928 gives 0.51 ms a token, of which 17% is attention.
    pub fn cpu() -> Engine {
        Engine {
            step_seconds: 2.4e-3,
            prefill_seconds: 0.427e-3,
            pair_seconds: 0.34e-6,
            row_seconds: 0.57e-3,
            context_seconds: 2.0e-6,
            budget: 512,
            max_running: 32,
            kv_tokens: 32_768,
            adapters: 4,
            adapter_seconds: 0.1,
        }
    }

    /// Llama 3.1 8B in bf16 on an H100 SXM, from data sheets, not measured: 16 GB of weights at 3.35 TB/s and 16 GFLOP a token at
    /// 989 TFLOP/s (NVIDIA's H100 data sheet), 60% of the one and 50% of the other reached; 32 layers of eight KV heads of 128 (the model's
    /// `config.json`) are 128 KiB a token, of which 54 GB hold 412,000.
    pub fn gpu() -> Engine {
        Engine {
            step_seconds: 8.0e-3,
            prefill_seconds: 32e-6,
            pair_seconds: 1.1e-9,
            row_seconds: 30e-6,
            context_seconds: 65e-9,
            budget: 2048,
            max_running: 128,
            kv_tokens: 412_000,
            adapters: 8,
            adapter_seconds: 0.5,
        }
    }

    pub(super) fn blocks(&self) -> usize {
        (self.kv_tokens / BLOCK_TOKENS).max(1) as usize
    }
}

impl Default for Engine {
    fn default() -> Engine {
        Engine::cpu()
    }
}
