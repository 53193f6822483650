//! What the server asks of a model's tokenizer and chat template.

use serde_json::{Map, Value};

/// A tokenizer and a chat template. Calls may take long for long texts: they run on worker threads, except
/// [`Decoder::push`] and [`TextModel::token_bytes`].
pub trait TextModel: Send + Sync + 'static {
    /// Tokens of a text in which special tokens may be written out. `add_special` adds begin-of-sequence as the
    /// model wants it.
    fn encode(&self, text: &str, add_special: bool) -> Vec<u32>;
    /// Text of whole sequences, invalid UTF-8 replaced.
    fn decode(&self, tokens: &[u32], skip_special: bool) -> String;
    /// Bytes of one token; empty for tokens that do not exist.
    fn token_bytes(&self, token: u32) -> Vec<u8>;
    /// An incremental detokeniser.
    fn decoder(&self, skip_special: bool) -> Box<dyn Decoder>;
    /// The prompt of a conversation, special tokens included.
    fn render(&self, chat: &ChatInput<'_>) -> Result<String, RenderError>;
}

/// Turns tokens into text as they come.
pub trait Decoder: Send {
    /// Text that the token completes; a part of a character is held back.
    fn push(&mut self, token: u32) -> Option<String>;
    /// What is still held back, invalid UTF-8 replaced.
    fn flush(&mut self) -> Option<String>;
}

/// A conversation for the chat template.
#[derive(Clone, Copy, Debug)]
pub struct ChatInput<'a> {
    /// List of messages.
    pub messages: &'a Value,
    /// List of tools.
    pub tools: Option<&'a Value>,
    /// End the prompt where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// Further variables of the template.
    pub kwargs: &'a Map<String, Value>,
}

/// A conversation that the template does not take, in the template's own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RenderError(pub String);
