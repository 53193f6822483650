//! What a request asks of the engine. Pure. Tokens are words, so that a test can count them.

use serde_json::Value;

use super::tools::{self, Call};

/// Which answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    Completion,
    Embedding,
}

/// A request for tokens or numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ask {
    pub(crate) kind: Kind,
    pub(crate) model: Option<String>,
    /// The prompt; for embeddings all inputs, one after the other.
    pub(crate) tokens: Vec<u32>,
    /// Inputs of an embedding request.
    pub(crate) inputs: usize,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    /// Functions that the answer must call; it has no text then.
    pub(crate) calls: Vec<Call>,
}

/// Reads a request's body; the error is a sentence for the client.
pub(crate) fn parse(kind: Kind, body: &[u8]) -> Result<Ask, String> {
    let body: Value = serde_json::from_slice(body).map_err(|e| format!("the body is not JSON: {e}"))?;
    let text = match kind {
        Kind::Chat => {
            let messages = body["messages"].as_array().ok_or("messages must be a list")?;
            messages.iter().map(message).collect::<Vec<_>>()
        }
        Kind::Completion => texts(&body["prompt"]).ok_or("prompt must be a text or a list of texts")?,
        Kind::Embedding => texts(&body["input"]).ok_or("input must be a text or a list of texts")?,
    };
    let count = |key: &str| body[key].as_u64().and_then(|count| usize::try_from(count).ok());
    Ok(Ask {
        kind,
        model: body["model"].as_str().map(str::to_owned),
        tokens: text.iter().flat_map(|text| tokenize(text)).collect(),
        inputs: text.len(),
        max_tokens: count("max_completion_tokens").or_else(|| count("max_tokens")),
        stream: body["stream"] == true,
        include_usage: body["stream_options"]["include_usage"] == true,
        calls: if kind == Kind::Chat { tools::demanded(&body)? } else { Vec::new() },
    })
}

/// One token per word, the same word always the same one.
pub(crate) fn tokenize(text: &str) -> Vec<u32> {
    let number = |word: &str| {
        word.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    };
    text.split_whitespace().map(|word| number(word) & 0xffff).collect()
}

/// The text of a body for `/tokenize`.
pub(crate) fn text_to_tokenize(body: &[u8]) -> Result<String, String> {
    let body: Value = serde_json::from_slice(body).map_err(|e| format!("the body is not JSON: {e}"))?;
    let messages = || Some(body["messages"].as_array()?.iter().map(message).collect::<Vec<_>>());
    let texts = texts(&body["prompt"]).or_else(messages).ok_or("needs a prompt or messages")?;
    Ok(texts.join(" "))
}

/// A message as the model reads it: who speaks, then every text.
fn message(message: &Value) -> String {
    let mut words = vec![message["role"].as_str().unwrap_or("user")];
    match &message["content"] {
        Value::String(text) => words.push(text),
        Value::Array(parts) => words.extend(parts.iter().filter_map(|part| part["text"].as_str())),
        _ => {}
    }
    words.join(" ")
}

fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(texts) => texts.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_is_its_roles_and_texts() {
        let body = br#"{"model": "m", "stream": true, "max_tokens": 5, "stream_options": {"include_usage": true},
            "messages": [{"role": "system", "content": "be brief"},
                         {"role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "image_url"}]}]}"#;
        let ask = parse(Kind::Chat, body).unwrap();
        assert_eq!(ask.tokens, tokenize("system be brief user hello"));
        assert_eq!((ask.max_tokens, ask.stream, ask.include_usage), (Some(5), true, true));
    }

    #[test]
    fn a_body_without_a_prompt_is_refused_in_words() {
        assert_eq!(parse(Kind::Completion, b"{}").unwrap_err(), "prompt must be a text or a list of texts");
        assert!(parse(Kind::Chat, b"{").unwrap_err().starts_with("the body is not JSON"));
    }
}
