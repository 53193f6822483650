//! What an answer took, as engines say it.

use memchr::memmem;
use serde::Deserialize;

/// Tokens of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    /// Of the prompt.
    #[serde(default, alias = "input_tokens")]
    pub(crate) prompt_tokens: u64,
    /// Of the answer.
    #[serde(default, alias = "output_tokens")]
    pub(crate) completion_tokens: u64,
    #[serde(default, alias = "input_tokens_details")]
    pub(crate) prompt_tokens_details: Option<Details>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Details {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

impl Usage {
    /// Tokens of the prompt that the engine had cached.
    pub(crate) fn cached_tokens(&self) -> u64 {
        self.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0)
    }
}

const MEMBER: &[u8] = b"\"usage\":";
const FINISH: &[u8] = b"\"finish_reason\":";

/// Why an answer ended, as the last choice in JSON text says it. A closed list: what engines may write there is no text for logs.
pub(crate) fn finish_reason(json: &[u8]) -> Option<&'static str> {
    let after = memmem::rfind(json, FINISH)? + FINISH.len();
    let value = json[after..].trim_ascii_start().strip_prefix(b"\"")?;
    let end = memchr::memchr(b'"', value)?;
    Some(match &value[..end] {
        b"stop" => "stop",
        b"length" => "length",
        b"tool_calls" => "tool_calls",
        b"function_call" => "function_call",
        b"content_filter" => "content_filter",
        b"abort" => "abort",
        _ => "other",
    })
}

/// The last `usage` object in JSON text. Inside strings quotes are escaped, so text cannot pretend to be one.
pub(crate) fn find(json: &[u8]) -> Option<Usage> {
    let after = memmem::rfind(json, MEMBER)? + MEMBER.len();
    let mut values = serde_json::Deserializer::from_slice(&json[after..]).into_iter();
    values.next()?.ok().flatten()
}

/// Whether the text has a `usage` that is not null.
pub(crate) fn is_in(json: &[u8]) -> bool {
    memmem::find_iter(json, MEMBER).any(|at| {
        let value = json[at + MEMBER.len()..].iter().find(|byte| !byte.is_ascii_whitespace());
        value == Some(&b'{')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_an_answer_ended_is_one_of_a_few_words() {
        let of = |json: &str| finish_reason(json.as_bytes());
        assert_eq!(of(r#"{"choices":[{"finish_reason":"stop","index":0}]}"#), Some("stop"));
        assert_eq!(
            of(r#"{"choices": [{"finish_reason": null}, {"finish_reason": "tool_calls"}]}"#),
            Some("tool_calls")
        );
        assert_eq!(of(r#"{"choices":[{"finish_reason":"what somebody wrote"}]}"#), Some("other"));
        assert_eq!(of(r#"{"choices":[{"finish_reason":null}]}"#), None);
        assert_eq!(of(r#"{"choices":[{"text":"\"finish_reason\":\"stop\""}]}"#), None);
        assert_eq!(of(r#"{"choices":[{"finish_reason":"sto"#), None);
    }

    #[test]
    fn the_engines_figures_are_found_and_a_quotation_is_not() {
        let body = br#"{"choices":[{"text":"\"usage\":{\"prompt_tokens\":9}"}],"usage": {"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":2}}}"#;
        let usage = find(body).unwrap();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens()), (3, 4, 2));
        assert!(is_in(body));
        let without = br#"{"choices":[{"text":"\"usage\":{}"}],"usage":null}"#;
        assert_eq!((find(without), is_in(without)), (None, false));
    }
}
