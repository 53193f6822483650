//! The OpenAI API as this server speaks it: requests, parsed and checked; responses and stream chunks.
//!
//! Requests ignore fields that they do not know, as OpenAI's and vLLM's servers do. A field that is known and
//! cannot be honoured is refused by name: silence would be a wrong answer.

mod chat;
mod completion;
mod generation;
mod json;
mod response;
mod tokenize;

pub use chat::{ChatRequest, Message, TemplateOptions};
pub use completion::{CompletionRequest, Prompt};
pub use generation::{Generation, StreamOptions};
pub use json::parse_json;
pub use response::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatLogprobs, Completion, CompletionChoice,
    CompletionLogprobs, Delta, DetokenizeResponse, ModelCard, ModelList, PromptTokensDetails,
    ResponseMessage, TokenLogprob, TokenizeResponse, TopLogprob, Usage, VersionResponse, wire_logprob,
};
pub use tokenize::{DetokenizeRequest, TokenizeInput, TokenizeRequest};

#[cfg(test)]
mod tests;
