//! What chat and text completions have in common: sampling, stopping, streaming.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::ApiError;

/// Most choices of one request.
const MAX_N: i64 = 128;
/// Most stop strings of one request, and most bytes of one: both bound work per generated character.
const MAX_STOPS: usize = 64;
const MAX_STOP_BYTES: usize = 4096;
/// Most entries of `stop_token_ids`: each choice has a copy, and each token is compared with all.
const MAX_STOP_TOKENS: usize = 1024;
/// Most entries of `logit_bias`.
const MAX_BIASES: usize = 4096;
/// Most `top_logprobs`, as vLLM and OpenAI allow.
pub(super) const MAX_LOGPROBS: i64 = 20;

/// Checked options. `None` means that the request did not say and the server's default holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Model name; the served model if absent.
    pub model: Option<String>,
    /// Most tokens to generate, at least 1.
    pub max_tokens: Option<usize>,
    /// At least 0.
    pub temperature: Option<f32>,
    /// Above 0, at most 1.
    pub top_p: Option<f32>,
    /// 0 keeps all tokens.
    pub top_k: Option<usize>,
    /// In `0..=1`.
    pub min_p: Option<f32>,
    /// In `-2..=2`.
    pub frequency_penalty: Option<f32>,
    /// In `-2..=2`.
    pub presence_penalty: Option<f32>,
    /// Above 0; 1 is off.
    pub repetition_penalty: Option<f32>,
    /// Token and what is added to its logit.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the first choice; each further choice counts one up.
    pub seed: Option<u64>,
    /// Stop strings, none empty.
    pub stop: Vec<String>,
    /// Stop tokens.
    pub stop_token_ids: Vec<u32>,
    /// Leave the stop string in the text.
    pub include_stop_str_in_output: bool,
    /// Generate on after an end-of-sequence token.
    pub ignore_eos: bool,
    /// No stopping before this many tokens.
    pub min_tokens: usize,
    /// Leave special tokens out of the text.
    pub skip_special_tokens: bool,
    /// Choices, at least 1.
    pub n: usize,
    /// `Some` streams.
    pub stream: Option<StreamOptions>,
    /// Requests share cached prefixes only with requests of the same salt.
    pub cache_salt: Option<String>,
}

/// How to stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    /// Send a last chunk with the usage and no choices.
    pub include_usage: bool,
    /// Send the usage so far with every chunk.
    pub continuous_usage_stats: bool,
}

/// The fields as they stand in the body. Numbers are wide so that a value out of range gets our message, with the
/// field's range, and not a parser's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GenerationFields {
    model: Option<String>,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    repetition_penalty: Option<f64>,
    logit_bias: Option<BTreeMap<String, f64>>,
    seed: Option<i64>,
    stop: Option<Stop>,
    stop_token_ids: Option<Vec<u32>>,
    include_stop_str_in_output: Option<bool>,
    ignore_eos: Option<bool>,
    min_tokens: Option<i64>,
    skip_special_tokens: Option<bool>,
    n: Option<i64>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    cache_salt: Option<String>,
    response_format: Option<Value>,
    structured_outputs: Option<Value>,
    guided_json: Option<Value>,
    guided_regex: Option<Value>,
    guided_choice: Option<Value>,
    guided_grammar: Option<Value>,
    prompt_logprobs: Option<Value>,
    allowed_token_ids: Option<Value>,
    bad_words: Option<Value>,
    use_beam_search: Option<bool>,
}

/// One stop string or several.
#[derive(Debug)]
struct Stop(Vec<String>);

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Stop;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E>(self, stop: &str) -> Result<Stop, E> {
                Ok(Stop(vec![stop.to_owned()]))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Stop, A::Error> {
                let mut stops = Vec::new();
                while let Some(stop) = seq.next_element()? {
                    stops.push(stop);
                }
                Ok(Stop(stops))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl GenerationFields {
    /// Checks every range.
    pub(super) fn check(self) -> Result<Generation, ApiError> {
        self.refuse_unsupported()?;
        let limit = match (self.max_completion_tokens, self.max_tokens) {
            (Some(limit), _) => at_least("max_completion_tokens", Some(limit), 1)?,
            (None, limit) => at_least("max_tokens", limit, 1)?,
        };
        let min_tokens = at_least("min_tokens", self.min_tokens, 0)?.unwrap_or(0);
        if let Some(limit) = limit.filter(|limit| min_tokens > *limit) {
            let message = format!("min_tokens must be at most max_tokens ({limit}), got {min_tokens}");
            return Err(ApiError::invalid("min_tokens", message));
        }
        if self.top_p == Some(0.0) {
            return Err(ApiError::invalid("top_p", "top_p must be above 0 and at most 1, got 0"));
        }
        if self.repetition_penalty == Some(0.0) {
            return Err(ApiError::invalid("repetition_penalty", "repetition_penalty must be above 0, got 0"));
        }
        let n = at_least("n", self.n, 1)?.unwrap_or(1);
        if n as i64 > MAX_N {
            return Err(ApiError::invalid("n", format!("n must be at most {MAX_N}, got {n}")));
        }
        let top_k = match self.top_k {
            Some(-1) => Some(0),
            top_k => at_least("top_k", top_k, 0)?,
        };
        if self.stream_options.is_some() && self.stream != Some(true) {
            return Err(ApiError::invalid("stream_options", "stream_options needs stream to be true"));
        }
        Ok(Generation {
            model: self.model,
            max_tokens: limit,
            temperature: within("temperature", self.temperature, 0.0, 100.0)?,
            top_p: within("top_p", self.top_p, 0.0, 1.0)?,
            top_k,
            min_p: within("min_p", self.min_p, 0.0, 1.0)?,
            frequency_penalty: within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?,
            presence_penalty: within("presence_penalty", self.presence_penalty, -2.0, 2.0)?,
            repetition_penalty: within("repetition_penalty", self.repetition_penalty, 0.0, 100.0)?,
            logit_bias: logit_bias(self.logit_bias)?,
            seed: self.seed.map(i64::cast_unsigned),
            stop: stop_strings(self.stop)?,
            stop_token_ids: stop_tokens(self.stop_token_ids)?,
            include_stop_str_in_output: self.include_stop_str_in_output.unwrap_or(false),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            min_tokens,
            skip_special_tokens: self.skip_special_tokens.unwrap_or(true),
            n,
            stream: (self.stream == Some(true)).then(|| self.stream_options.unwrap_or_default()),
            cache_salt: self.cache_salt,
        })
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        let structured = [
            ("structured_outputs", &self.structured_outputs),
            ("guided_json", &self.guided_json),
            ("guided_regex", &self.guided_regex),
            ("guided_choice", &self.guided_choice),
            ("guided_grammar", &self.guided_grammar),
        ];
        for (name, value) in structured {
            if value.is_some() {
                return Err(ApiError::unsupported(name, format!("{name} is not supported yet")));
            }
        }
        if let Some(format) = &self.response_format {
            match format.get("type").and_then(Value::as_str) {
                Some("text") => {}
                Some(kind @ ("json_schema" | "json_object")) => {
                    let message = format!("response_format of type {kind} is not supported yet");
                    return Err(ApiError::unsupported("response_format", message));
                }
                _ => {
                    let message = "response_format must be an object whose type is \"text\"";
                    return Err(ApiError::invalid("response_format", message));
                }
            }
        }
        let others = [
            ("prompt_logprobs", &self.prompt_logprobs),
            ("allowed_token_ids", &self.allowed_token_ids),
            ("bad_words", &self.bad_words),
        ];
        for (name, value) in others {
            if value.as_ref().is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty())) {
                return Err(ApiError::unsupported(name, format!("{name} is not supported")));
            }
        }
        if self.use_beam_search == Some(true) {
            return Err(ApiError::unsupported("use_beam_search", "beam search is not supported"));
        }
        Ok(())
    }
}

fn at_least(name: &str, value: Option<i64>, lowest: i64) -> Result<Option<usize>, ApiError> {
    match value {
        Some(value) if value < lowest => {
            Err(ApiError::invalid(name, format!("{name} must be at least {lowest}, got {value}")))
        }
        Some(value) => Ok(Some(usize::try_from(value).unwrap_or(usize::MAX))),
        None => Ok(None),
    }
}

fn within(name: &str, value: Option<f64>, lowest: f64, highest: f64) -> Result<Option<f32>, ApiError> {
    match value {
        Some(value) if !(lowest..=highest).contains(&value) => {
            let message = format!("{name} must be between {lowest} and {highest}, got {value}");
            Err(ApiError::invalid(name, message))
        }
        value => Ok(value.map(|value| value as f32)),
    }
}

fn logit_bias(biases: Option<BTreeMap<String, f64>>) -> Result<Vec<(u32, f32)>, ApiError> {
    let biases = biases.unwrap_or_default();
    if biases.len() > MAX_BIASES {
        return Err(ApiError::invalid(
            "logit_bias",
            format!("logit_bias must have at most {MAX_BIASES} entries"),
        ));
    }
    let one = |(token, bias): (String, f64)| {
        let token: u32 = token.parse().map_err(|_| {
            ApiError::invalid("logit_bias", format!("logit_bias has {token:?}, which is not a token id"))
        })?;
        if !(-100.0..=100.0).contains(&bias) {
            let message = format!("logit_bias of token {token} must be between -100 and 100, got {bias}");
            return Err(ApiError::invalid("logit_bias", message));
        }
        Ok((token, bias as f32))
    };
    biases.into_iter().map(one).collect()
}

fn stop_strings(stop: Option<Stop>) -> Result<Vec<String>, ApiError> {
    let Stop(stops) = stop.unwrap_or(Stop(Vec::new()));
    if stops.len() > MAX_STOPS {
        return Err(ApiError::invalid("stop", format!("stop must have at most {MAX_STOPS} strings")));
    }
    if stops.iter().any(|stop| stop.is_empty()) {
        return Err(ApiError::invalid("stop", "stop must not have an empty string"));
    }
    if stops.iter().any(|stop| stop.len() > MAX_STOP_BYTES) {
        return Err(ApiError::invalid(
            "stop",
            format!("a stop string must have at most {MAX_STOP_BYTES} bytes"),
        ));
    }
    Ok(stops)
}

fn stop_tokens(tokens: Option<Vec<u32>>) -> Result<Vec<u32>, ApiError> {
    let tokens = tokens.unwrap_or_default();
    if tokens.len() > MAX_STOP_TOKENS {
        let message = format!("stop_token_ids must have at most {MAX_STOP_TOKENS} tokens");
        return Err(ApiError::invalid("stop_token_ids", message));
    }
    Ok(tokens)
}

/// A count of log-probabilities, `0..=20`.
pub(super) fn logprob_count(name: &str, value: Option<i64>) -> Result<Option<usize>, ApiError> {
    let count = at_least(name, value, 0)?;
    match value {
        Some(value) if value > MAX_LOGPROBS => {
            Err(ApiError::invalid(name, format!("{name} must be at most {MAX_LOGPROBS}, got {value}")))
        }
        _ => Ok(count),
    }
}
