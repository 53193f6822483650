//! The text side of a model: tokenizer and chat template as the server uses them.

use std::sync::Arc;

use serde_json::{Map, Value};
use wharf_api::ApiError;
use wharf_model::tokenizer::StreamStart;
use wharf_model::{ChatInput, ChatTemplate, DecodeStream, EncodeOptions, Tokenizer};

use crate::state::unix_seconds;

/// A tokenizer and, for models that chat, a template. Encoding and rendering may take long for long texts: they
/// run on worker threads.
pub(crate) struct Text {
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    bos: Option<String>,
    eos: Option<String>,
}

/// A conversation for the chat template.
pub(crate) struct Conversation<'a> {
    pub(crate) messages: &'a Value,
    pub(crate) tools: Option<&'a Value>,
    pub(crate) add_generation_prompt: bool,
    pub(crate) kwargs: &'a Map<String, Value>,
}

/// Text of one choice as its tokens come.
pub(crate) type Decoder = DecodeStream<Arc<Tokenizer>>;

impl Text {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>, template: Option<ChatTemplate>) -> Text {
        let name = |token: Option<u32>| token.map(|token| tokenizer.token_text(token));
        let (bos, eos) = (name(tokenizer.bos()), name(tokenizer.eos()));
        Text { tokenizer, template, bos, eos }
    }

    /// Tokens of a text in which special tokens may be written out.
    pub(crate) fn encode(&self, text: &str, add_special: bool) -> Vec<u32> {
        self.tokenizer.encode(text, EncodeOptions { add_special, parse_special: true })
    }

    pub(crate) fn decode(&self, tokens: &[u32]) -> String {
        self.tokenizer.decode(tokens, false)
    }

    /// Bytes and text of one token; the text has U+FFFD for parts of characters.
    pub(crate) fn token(&self, token: u32) -> (Vec<u8>, String) {
        (self.tokenizer.token_bytes(token).into_owned(), self.tokenizer.token_text(token))
    }

    pub(crate) fn decoder(&self, skip_special: bool, start: StreamStart) -> Decoder {
        DecodeStream::new(Arc::clone(&self.tokenizer), skip_special, start)
    }

    /// The prompt of a conversation, special tokens included.
    pub(crate) fn render(&self, conversation: &Conversation<'_>) -> Result<String, ApiError> {
        let Some(template) = &self.template else {
            let message = "this model has no chat template; use /v1/completions";
            return Err(ApiError::unsupported("messages", message));
        };
        let input = ChatInput {
            messages: conversation.messages,
            tools: conversation.tools,
            add_generation_prompt: conversation.add_generation_prompt,
            extra: Some(conversation.kwargs),
            bos_token: self.bos.as_deref(),
            eos_token: self.eos.as_deref(),
            now: i64::try_from(unix_seconds()).ok(),
        };
        template.render(&input).map_err(|error| {
            ApiError::invalid(
                "messages",
                format!("failed to apply the chat template: {}", crate::serve::chain(&error)),
            )
        })
    }
}
