//! `POST /tokenize` and `POST /detokenize`, in vLLM's shapes: the requests.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::chat::{Message, TemplateOptions, check_messages, parse_template_options};
use super::json::parse_json;
use crate::ApiError;

/// A checked `/tokenize` request.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizeRequest {
    /// Model name; the served model if absent.
    pub model: Option<String>,
    /// What to tokenise.
    pub input: TokenizeInput,
    /// Let the tokenizer add its begin-of-sequence token.
    pub add_special_tokens: bool,
    /// Also return each token's text.
    pub return_token_strs: bool,
}

/// Text, or a conversation that goes through the chat template.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenizeInput {
    /// Plain text.
    Text(String),
    /// A conversation.
    Chat {
        /// At least one message.
        messages: Vec<Message>,
        /// What the template gets besides.
        template: TemplateOptions,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TokenizeFields {
    model: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<Map<String, Value>>>,
    add_special_tokens: Option<bool>,
    return_token_strs: Option<bool>,
}

impl TokenizeRequest {
    /// Parses and checks a request body.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] naming the field.
    pub fn parse(body: &[u8]) -> Result<TokenizeRequest, ApiError> {
        let fields: TokenizeFields = parse_json(body)?;
        // A rendered conversation already has its special tokens.
        let (input, special_by_default) = match (fields.prompt, fields.messages) {
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid("prompt", "prompt and messages cannot both be given"));
            }
            (Some(prompt), None) => (TokenizeInput::Text(prompt), true),
            (None, Some(messages)) => {
                let messages = check_messages(Some(messages))?;
                (TokenizeInput::Chat { messages, template: parse_template_options(body)? }, false)
            }
            (None, None) => return Err(ApiError::invalid("prompt", "prompt or messages is missing")),
        };
        Ok(TokenizeRequest {
            model: fields.model,
            input,
            add_special_tokens: fields.add_special_tokens.unwrap_or(special_by_default),
            return_token_strs: fields.return_token_strs.unwrap_or(false),
        })
    }
}

/// A `/detokenize` request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetokenizeRequest {
    /// Model name; the served model if absent.
    pub model: Option<String>,
    /// Tokens to turn into text.
    pub tokens: Vec<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DetokenizeFields {
    model: Option<String>,
    tokens: Option<Vec<u32>>,
}

impl DetokenizeRequest {
    /// Parses and checks a request body.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] naming the field.
    pub fn parse(body: &[u8]) -> Result<DetokenizeRequest, ApiError> {
        let fields: DetokenizeFields = parse_json(body)?;
        let tokens = fields.tokens.ok_or_else(|| ApiError::invalid("tokens", "tokens is missing"))?;
        Ok(DetokenizeRequest { model: fields.model, tokens })
    }
}
