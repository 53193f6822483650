//! `POST /v1/completions`: the request.

use std::fmt;

use serde::de::{self, SeqAccess};
use serde::{Deserialize, Deserializer};

use super::generation::{Generation, GenerationFields, logprob_count};
use super::json::parse_json;
use crate::ApiError;

/// Most prompts of one request.
const MAX_PROMPTS: usize = 1024;

/// A checked completion request.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    /// The prompts, at least one; each gets `n` choices.
    pub prompts: Vec<Prompt>,
    /// Sampling, stopping, streaming.
    pub generation: Generation,
    /// `Some(k)`: log-probabilities of the chosen token and the `k` most likely ones.
    pub logprobs: Option<usize>,
    /// Put the prompt before the answer.
    pub echo: bool,
    /// Let the tokenizer add its begin-of-sequence token to text prompts.
    pub add_special_tokens: bool,
}

/// What to complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text, to be tokenised.
    Text(String),
    /// Tokens, taken as they are.
    Tokens(Vec<u32>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CompletionFields {
    prompt: Option<Prompts>,
    logprobs: Option<i64>,
    echo: Option<bool>,
    suffix: Option<String>,
    best_of: Option<i64>,
    add_special_tokens: Option<bool>,
    prompt_embeds: Option<de::IgnoredAny>,
}

impl CompletionRequest {
    /// Parses and checks a request body.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] naming the field.
    pub fn parse(body: &[u8]) -> Result<CompletionRequest, ApiError> {
        let fields: CompletionFields = parse_json(body)?;
        let generation = parse_json::<GenerationFields>(body)?.check()?;
        if fields.prompt_embeds.is_some() {
            return Err(ApiError::unsupported("prompt_embeds", "prompt_embeds is not supported"));
        }
        let Prompts(prompts) =
            fields.prompt.ok_or_else(|| ApiError::invalid("prompt", "prompt is missing"))?;
        if fields.suffix.is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::unsupported("suffix", "suffix is not supported"));
        }
        let n = generation.n as i64;
        if let Some(best_of) = fields.best_of.filter(|best_of| *best_of != n) {
            let message = format!("best_of must equal n ({n}), got {best_of}");
            return Err(ApiError::unsupported("best_of", message));
        }
        let echo = fields.echo.unwrap_or(false);
        let logprobs = logprob_count("logprobs", fields.logprobs)?;
        if echo && logprobs.is_some() {
            let message = "echo together with logprobs is not supported";
            return Err(ApiError::unsupported("echo", message));
        }
        let add_special_tokens = fields.add_special_tokens.unwrap_or(true);
        Ok(CompletionRequest { prompts, generation, logprobs, echo, add_special_tokens })
    }
}

/// OpenAI's four shapes of `prompt`: text, tokens, and lists of either.
#[derive(Debug)]
struct Prompts(Vec<Prompt>);

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Prompts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a list of token ids, or a list of strings or of lists of token ids")
            }
            fn visit_str<E>(self, text: &str) -> Result<Prompts, E> {
                Ok(Prompts(vec![Prompt::Text(text.to_owned())]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompts, A::Error> {
                let mut prompts = Vec::new();
                let mut tokens = Vec::new();
                while let Some(item) = seq.next_element::<Item>()? {
                    match item {
                        Item::Token(token) => tokens.push(token),
                        Item::Prompt(prompt) => prompts.push(prompt),
                    }
                    if prompts.len() > MAX_PROMPTS {
                        return Err(de::Error::custom(format!("at most {MAX_PROMPTS} prompts are allowed")));
                    }
                    if !tokens.is_empty() && !prompts.is_empty() {
                        return Err(de::Error::custom("token ids and prompts are mixed in one list"));
                    }
                }
                match (tokens.is_empty(), prompts.is_empty()) {
                    (false, _) => Ok(Prompts(vec![Prompt::Tokens(tokens)])),
                    (true, false) => Ok(Prompts(prompts)),
                    (true, true) => Err(de::Error::custom("the list is empty")),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// One element of the list form.
enum Item {
    Token(u32),
    Prompt(Prompt),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Item;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token id, a string or a list of token ids")
            }
            fn visit_u64<E: de::Error>(self, token: u64) -> Result<Item, E> {
                let token =
                    u32::try_from(token).map_err(|_| E::custom(format!("{token} is not a token id")))?;
                Ok(Item::Token(token))
            }
            fn visit_i64<E: de::Error>(self, token: i64) -> Result<Item, E> {
                Err(E::custom(format!("{token} is not a token id")))
            }
            fn visit_str<E>(self, text: &str) -> Result<Item, E> {
                Ok(Item::Prompt(Prompt::Text(text.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Item, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = seq.next_element()? {
                    tokens.push(token);
                }
                Ok(Item::Prompt(Prompt::Tokens(tokens)))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
