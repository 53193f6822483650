//! What a fake engine is: names, speeds, limits. Every field can be changed while it runs.

use std::time::Duration;

/// How a fake engine behaves when it does not fail.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Tells engines apart: the `x-fake-engine` header of every answer, and `system_fingerprint`.
    pub name: String,
    /// The served model's name. A request for another one is answered 404.
    pub model: String,
    /// Further names that are served, as LoRA adapters of the model.
    pub adapters: Vec<String>,
    /// Time from admission to the first token, without the prompt.
    pub ttft: Duration,
    /// Added to `ttft` for each prompt token that the prefix cache does not hold.
    pub prefill_per_token: Duration,
    /// Time between two tokens.
    pub itl: Duration,
    /// Tokens of an answer, where the request does not ask for fewer.
    pub tokens: usize,
    /// Requests computed at a time; the others wait, first come first served.
    pub slots: usize,
    /// Requests that may wait; one more is answered 429.
    pub queue: usize,
    /// Most tokens that prompt and answer may have together.
    pub max_model_len: usize,
    /// Tokens of a block of the prefix cache.
    pub block_tokens: usize,
    /// Blocks that the KV cache has, and so the prefix cache.
    pub blocks: usize,
    /// When the head of a streamed answer is sent.
    pub head: Head,
    /// Names of the metrics.
    pub dialect: Dialect,
    /// What `/health` and `/ready` say.
    pub health: Health,
    /// `/health` and `/ready` say no until this long after the start.
    pub starts_in: Duration,
    /// Requests without this key are answered 401.
    pub api_key: Option<String>,
    /// Load that `/metrics` claims, whatever is true.
    pub claims: Claims,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            name: "fake".to_owned(),
            model: "fake-model".to_owned(),
            adapters: Vec::new(),
            ttft: Duration::ZERO,
            prefill_per_token: Duration::ZERO,
            itl: Duration::ZERO,
            tokens: 8,
            slots: 64,
            queue: 1024,
            max_model_len: 8192,
            block_tokens: 16,
            blocks: 1024,
            head: Head::AtOnce,
            dialect: Dialect::Vllm,
            health: Health::Good,
            starts_in: Duration::ZERO,
            api_key: None,
            claims: Claims::default(),
        }
    }
}

impl EngineConfig {
    /// The defaults under another name.
    pub fn named(name: impl Into<String>) -> EngineConfig {
        EngineConfig { name: name.into(), ..EngineConfig::default() }
    }

    /// Whether requests may name `model`.
    pub(crate) fn serves(&self, model: &str) -> bool {
        model == self.model || self.adapters.iter().any(|adapter| adapter == model)
    }
}

/// When the head of a streamed answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// On arrival, before the request waits for a slot.
    AtOnce,
    /// With the first token.
    WithFirstToken,
}

/// Names of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `vllm:…`, as Wharf's own server has them.
    Vllm,
    /// `sglang:…`
    Sglang,
    /// `llamacpp:…`
    Llamacpp,
}

/// What probes are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// `/health` and `/ready` are 200.
    Good,
    /// `/health` is 200 and `/ready` is 503.
    NotReady,
    /// Both are 503.
    Bad,
    /// Both are 200 for `good` probes, then 503 for `bad` probes, and so on.
    Flapping {
        /// Probes in a row that pass.
        good: u32,
        /// Probes in a row that fail.
        bad: u32,
    },
}

/// Load that `/metrics` claims; where absent, the truth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Claims {
    /// Requests being computed.
    pub running: Option<usize>,
    /// Requests waiting.
    pub waiting: Option<usize>,
    /// Share of the KV cache in use, 0 to 1.
    pub kv: Option<f64>,
}
