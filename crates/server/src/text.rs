//! The text side of a model: tokenizer and chat template as the server uses them.

use std::sync::Arc;

use serde_json::{Map, Value};
use wharf_model::tokenizer::StreamStart;
use wharf_model::{ChatTemplate, DecodeStream, EncodeOptions, Tokenizer};
use wharf_telemetry::log::chain;

use crate::state::unix_seconds;

/// A tokenizer and, for models that chat, a template. Encoding and rendering may take long for long texts: they
/// run on worker threads.
pub struct Text {
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    bos: Option<String>,
    eos: Option<String>,
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

/// Text of one choice as its tokens come.
pub type Decoder = DecodeStream<Arc<Tokenizer>>;

impl Text {
    /// A tokenizer and, for models that chat, a template.
    pub fn new(tokenizer: Arc<Tokenizer>, template: Option<ChatTemplate>) -> Text {
        let name = |token: Option<u32>| token.map(|token| tokenizer.token_text(token));
        let (bos, eos) = (name(tokenizer.bos()), name(tokenizer.eos()));
        Text { tokenizer, template, bos, eos }
    }

    /// Tokens of a text in which special tokens may be written out.
    pub fn encode(&self, text: &str, add_special: bool) -> Vec<u32> {
        self.tokenizer.encode(text, EncodeOptions { add_special, parse_special: true })
    }

    /// Text of whole sequences, special tokens included, invalid UTF-8 replaced.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.tokenizer.decode(tokens, false)
    }

    /// Bytes and text of one token; the text has U+FFFD for parts of characters.
    pub(crate) fn token(&self, token: u32) -> (Vec<u8>, String) {
        (self.tokenizer.token_bytes(token).into_owned(), self.tokenizer.token_text(token))
    }

    /// An empty stream of text; `start` says whether it follows a text or begins one.
    pub fn decoder(&self, skip_special: bool, start: StreamStart) -> Decoder {
        DecodeStream::new(Arc::clone(&self.tokenizer), skip_special, start)
    }

    /// The prompt of a conversation, special tokens included.
    ///
    /// # Errors
    /// When the model has no template, or the template does not take the conversation.
    pub fn render(&self, chat: &ChatInput<'_>) -> Result<String, RenderError> {
        let template = self.template.as_ref().ok_or(RenderError::NoTemplate)?;
        let input = wharf_model::ChatInput {
            messages: chat.messages,
            tools: chat.tools,
            add_generation_prompt: chat.add_generation_prompt,
            extra: Some(chat.kwargs),
            bos_token: self.bos.as_deref(),
            eos_token: self.eos.as_deref(),
            now: i64::try_from(unix_seconds()).ok(),
        };
        template.render(&input).map_err(|error| RenderError::Template(chain(&error)))
    }
}

/// Why a conversation has no prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The model was not made for conversations.
    #[error("this model has no chat template; ask it for completions instead")]
    NoTemplate,
    /// The template failed, in its own words with all causes: clients see them.
    #[error("failed to apply the chat template: {0}")]
    Template(String),
}
