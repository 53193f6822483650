//! What a caller may ask of the engine, and what it hears back.

use std::ops::ControlFlow;

/// One sequence to complete.
pub struct Request {
    /// Prompt tokens, at least one, each below the vocabulary size.
    pub prompt: Vec<u32>,
    /// How the next token is chosen.
    pub sampling: SamplingParams,
    /// When generation ends.
    pub stop: StopConditions,
    /// `Some(k)`: report the chosen token's log-probability and the `k` most likely ones.
    pub logprobs: Option<usize>,
    /// Requests share cached prefixes only with requests of the same salt.
    pub cache_salt: u64,
    /// Changes logits before sampling (structured output); sees the tokens generated so far.
    pub logits_hook: Option<LogitsHook>,
    /// Receives every event of this request, from the engine's thread.
    pub sink: EventSink,
}

/// See [`Request::logits_hook`]: `(generated tokens, logits: (vocab_size))`.
pub type LogitsHook = Box<dyn FnMut(&[u32], &mut [f32]) + Send>;

/// Called on the engine's thread, so it must neither block nor panic. `Break` means that nobody listens any more: the
/// engine aborts the request and frees its KV blocks before the next step.
pub type EventSink = Box<dyn FnMut(Event) -> ControlFlow<()> + Send>;

/// How the next token is chosen from the logits. The default is greedy.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the `k` most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probability reaches `p`; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least `min_p` times as likely as the best.
    pub min_p: f32,
    /// Subtracted once per earlier occurrence in the output.
    pub frequency_penalty: f32,
    /// Subtracted once if the token occurred in the output.
    pub presence_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Added to the logit of a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the request's own counter-based random numbers.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// When generation ends. Stop strings are found by the caller on decoded text.
#[derive(Clone, Debug, PartialEq)]
pub struct StopConditions {
    /// Most tokens to generate, at least 1.
    pub max_tokens: usize,
    /// Stop tokens cannot be generated before this many tokens.
    pub min_tokens: usize,
    /// Tokens that end generation; the last one generated is reported.
    pub stop_tokens: Vec<u32>,
    /// Tokens of the model that end generation unless `ignore_eos`.
    pub eos_tokens: Vec<u32>,
    /// Generate on after an end-of-sequence token.
    pub ignore_eos: bool,
}

/// What happened to a request, in order: any number of `Token`, then one `Finished`, `Failed` or `Lost`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A token was generated. Stop and end-of-sequence tokens are reported too, so that usage counts them;
    /// callers leave them out of the text (`Finished` follows at once).
    Token {
        /// The token.
        token: u32,
        /// Present when the request asked for log-probabilities.
        logprobs: Option<Logprobs>,
    },
    /// Generation ended.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What it cost.
        usage: Usage,
    },
    /// The engine could not go on with this request.
    Failed {
        /// What went wrong, for the caller's error message.
        message: String,
    },
    /// The device is gone and the engine has stopped: only another replica can answer.
    Lost {
        /// What is gone, and why.
        message: String,
    },
}

/// Natural-log probabilities of the raw logits, before penalties, temperature and filters.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the chosen token.
    pub chosen: f32,
    /// Most likely tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// A stop or end-of-sequence token.
    Stop,
    /// `max_tokens` or the context is full.
    Length,
    /// [`EngineHandle::abort`](crate::EngineHandle::abort) or a sink that returned `Break`.
    Aborted,
}

/// Token counts and times of a finished request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt_tokens: usize,
    /// Prompt tokens whose KV came from the prefix cache.
    pub cached_tokens: usize,
    /// Generated tokens.
    pub generated_tokens: usize,
    /// Seconds from submission to first scheduling.
    pub queue_seconds: f64,
    /// Seconds from first scheduling to the first token.
    pub prefill_seconds: f64,
    /// Seconds from the first to the last token.
    pub decode_seconds: f64,
}
