//! Responses and stream chunks, field for field as OpenAI's and vLLM's clients read them.

use std::collections::BTreeMap;

use serde::Serialize;

/// Token counts of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// Their sum.
    pub total_tokens: usize,
    /// Generated tokens of all choices.
    pub completion_tokens: usize,
    /// Where the prompt's tokens came from.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// See [`Usage::prompt_tokens_details`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PromptTokensDetails {
    /// Prompt tokens that the prefix cache held.
    pub cached_tokens: usize,
}

impl Usage {
    /// Adds up the counts.
    pub fn new(prompt_tokens: usize, cached_tokens: usize, completion_tokens: usize) -> Usage {
        Usage {
            prompt_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
        }
    }
}

/// JSON has no minus infinity; vLLM writes -9999 and clients know it.
pub fn wire_logprob(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob.max(-9999.0) } else { -9999.0 }
}

/// One alternative for a token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopLogprob {
    /// The token's text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes, for tokens that are part of a character.
    pub bytes: Vec<u8>,
}

/// Log-probabilities at one position of a chat answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenLogprob {
    /// The chosen token.
    #[serde(flatten)]
    pub chosen: TopLogprob,
    /// The most likely ones, best first.
    pub top_logprobs: Vec<TopLogprob>,
}

/// `choices[].logprobs` of a chat answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChatLogprobs {
    /// One entry per token.
    pub content: Vec<TokenLogprob>,
}

/// `choices[].logprobs` of a text completion: parallel lists with one entry per token.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CompletionLogprobs {
    /// Offset of the token's text in the choice's text, in characters.
    pub text_offset: Vec<usize>,
    /// Natural logarithm of the chosen token's probability.
    pub token_logprobs: Vec<f32>,
    /// The chosen tokens' texts.
    pub tokens: Vec<String>,
    /// The most likely tokens' texts and log-probabilities.
    pub top_logprobs: Vec<BTreeMap<String, f32>>,
}

/// The assistant's message.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResponseMessage {
    /// `assistant`.
    pub role: &'static str,
    /// The answer.
    pub content: String,
}

/// One answer of a chat completion.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatChoice {
    /// Position among the `n` choices.
    pub index: usize,
    /// The answer.
    pub message: ResponseMessage,
    /// When asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop` or `length`.
    pub finish_reason: &'static str,
}

/// The answer to `/v1/chat/completions`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatCompletion {
    /// `chatcmpl-…`.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// The served model's name.
    pub model: String,
    /// `n` answers.
    pub choices: Vec<ChatChoice>,
    /// What it cost.
    pub usage: Usage,
}

/// What a stream adds to a message.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Delta {
    /// `assistant`, in the first chunk only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Further text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// One choice of a chat chunk.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatChunkChoice {
    /// Position among the `n` choices.
    pub index: usize,
    /// What is new.
    pub delta: Delta,
    /// When asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Set in the choice's last chunk.
    pub finish_reason: Option<&'static str>,
}

/// One event of a chat stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatChunk {
    /// The same in every chunk.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// Unix seconds, the same in every chunk.
    pub created: u64,
    /// The served model's name.
    pub model: String,
    /// One choice, or none in the usage chunk.
    pub choices: Vec<ChatChunkChoice>,
    /// In the usage chunk, or in every chunk when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// One choice of a text completion or of its chunk.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CompletionChoice {
    /// Position among all prompts' choices.
    pub index: usize,
    /// The text, or what is new of it.
    pub text: String,
    /// When asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; null while streaming.
    pub finish_reason: Option<&'static str>,
}

/// The answer to `/v1/completions`, and one event of its stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Completion {
    /// `cmpl-…`.
    pub id: String,
    /// `text_completion`.
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// The served model's name.
    pub model: String,
    /// The choices.
    pub choices: Vec<CompletionChoice>,
    /// What it cost; in a stream only where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// The answer to `/v1/models`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// The served models.
    pub data: Vec<ModelCard>,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelCard {
    /// The name to use in requests.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// Unix seconds when this server loaded it.
    pub created: u64,
    /// `wharf`.
    pub owned_by: &'static str,
    /// Most tokens that prompt and answer may have together.
    pub max_model_len: usize,
}

/// The answer to `/tokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenizeResponse {
    /// How many tokens.
    pub count: usize,
    /// Most tokens that prompt and answer may have together.
    pub max_model_len: usize,
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Their texts, when asked for.
    pub token_strs: Option<Vec<String>>,
}

/// The answer to `/detokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DetokenizeResponse {
    /// The text.
    pub prompt: String,
}

/// The answer to `/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VersionResponse {
    /// Version of this program.
    pub version: &'static str,
}
