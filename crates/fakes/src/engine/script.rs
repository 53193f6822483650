//! What is answered to a request, as a list of steps. Pure: [`super::play`] carries the steps out.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::config::{EngineConfig, Head};
use super::fault::Fault;
use super::prompt::{Ask, Kind};

/// Answers have no clock: this is when every one of them was made.
const CREATED: u64 = 1_700_000_000;
const DONE: &str = "data: [DONE]\n\n";

/// One thing that an answer does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Waits until the request has a slot.
    Slot,
    Wait(Duration),
    /// So many tokens are made.
    Made(usize),
    Send(Bytes),
    /// Nothing happens any more.
    Stall,
    /// The connection is reset.
    Reset,
    /// The connection is closed.
    Close,
}

/// An answer: `before` its head, and in its body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Script {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) before: Vec<Step>,
    pub(crate) body: Vec<Step>,
    /// `stop`, `length` or `tool_calls`, for answers that made tokens.
    pub(crate) finish: Option<&'static str>,
}

impl Script {
    /// An answer in one piece.
    pub(crate) fn whole(status: u16, content_type: &str, body: impl Into<Bytes>) -> Script {
        let body = body.into();
        Script {
            status,
            headers: vec![
                ("content-type", content_type.to_owned()),
                ("content-length", body.len().to_string()),
            ],
            before: Vec::new(),
            body: vec![Step::Send(body)],
            finish: None,
        }
    }

    pub(crate) fn json(status: u16, body: &Value) -> Script {
        Script::whole(status, "application/json", body.to_string())
    }

    /// An error in OpenAI's words.
    pub(crate) fn error(status: u16, message: &str, code: &str) -> Script {
        let kind = match status {
            401 => "authentication_error",
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        };
        Script::json(status, &error_body(message, kind, code))
    }

    pub(crate) fn retry_after(mut self, seconds: Option<u32>) -> Script {
        self.headers.extend(seconds.map(|seconds| ("retry-after", seconds.to_string())));
        self
    }
}

fn error_body(message: &str, kind: &str, code: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// The answer of an engine that does not fail. `number` tells answers apart; `cached` prompt tokens need no computing.
pub(crate) fn answer(config: &EngineConfig, ask: &Ask, number: u64, cached: usize) -> Script {
    let computed = u32::try_from(ask.tokens.len() - cached).unwrap_or(u32::MAX);
    let first = config.ttft + config.prefill_per_token * computed;
    if ask.kind == Kind::Embedding {
        return embedding(config, ask, first);
    }
    let room = config.max_model_len.saturating_sub(ask.tokens.len());
    let writer = Writer { config, ask, number };
    let all = match &ask.calls[..] {
        [] => config.tokens,
        calls => calls.iter().map(|call| call.pieces.len()).sum(),
    };
    let tokens = all.min(ask.max_tokens.unwrap_or(usize::MAX)).min(room);
    let finish = if tokens < all {
        "length"
    } else if ask.calls.is_empty() {
        "stop"
    } else {
        "tool_calls"
    };
    let usage = json!({
        "prompt_tokens": ask.tokens.len(),
        "completion_tokens": tokens,
        "total_tokens": ask.tokens.len() + tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
    });
    if ask.stream {
        writer.stream(first, tokens, finish, &usage)
    } else {
        writer.whole(first, tokens, finish, &usage)
    }
}

/// What a token adds to the answer.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Text(String),
    /// To the arguments of the call of this index.
    Arguments(usize, String),
}

struct Writer<'a> {
    config: &'a EngineConfig,
    ask: &'a Ask,
    number: u64,
}

impl Writer<'_> {
    /// The first so many tokens of what it has to say.
    fn tokens(&self, count: usize) -> Vec<Token> {
        if self.ask.calls.is_empty() {
            return (0..count).map(|index| Token::Text(format!("w{index} "))).collect();
        }
        let pieces = self.ask.calls.iter().enumerate().flat_map(|(index, call)| {
            call.pieces.iter().map(move |piece| Token::Arguments(index, piece.clone()))
        });
        pieces.take(count).collect()
    }

    /// The call of this index in the words of the API, with these arguments.
    fn call(&self, index: usize, arguments: &str) -> Value {
        let id = format!("call_{}_{index}", self.number);
        json!({
            "id": id, "type": "function", "function": {"name": self.ask.calls[index].name, "arguments": arguments},
        })
    }

    /// What the tokens say together.
    fn message(&self, tokens: Vec<Token>) -> Value {
        let mut text = String::new();
        let mut arguments: Vec<String> = Vec::new();
        for token in tokens {
            match token {
                Token::Text(piece) => text.push_str(&piece),
                Token::Arguments(index, piece) => {
                    arguments.resize(index + 1, String::new());
                    arguments[index].push_str(&piece);
                }
            }
        }
        if self.ask.calls.is_empty() {
            return json!({"role": "assistant", "content": text});
        }
        let calls = arguments.iter().enumerate().map(|(index, arguments)| self.call(index, arguments));
        json!({"role": "assistant", "content": null, "tool_calls": calls.collect::<Vec<_>>()})
    }

    fn whole(&self, first: Duration, tokens: usize, finish: &'static str, usage: &Value) -> Script {
        let message = self.message(self.tokens(tokens));
        let choice = match self.ask.kind {
            Kind::Chat => json!({
                "index": 0, "message": message, "logprobs": null, "finish_reason": finish,
            }),
            Kind::Completion | Kind::Embedding => {
                json!({"index": 0, "text": message["content"], "logprobs": null, "finish_reason": finish})
            }
        };
        let mut body = self.envelope(json!([choice]), "chat.completion");
        body["usage"] = usage.clone();
        let later = u32::try_from(tokens.saturating_sub(1)).unwrap_or(u32::MAX);
        let mut script = Script::json(200, &body);
        script.before = vec![Step::Slot, Step::Wait(first + self.config.itl * later), Step::Made(tokens)];
        script.finish = Some(finish);
        script
    }

    fn stream(&self, first: Duration, tokens: usize, finish: &'static str, usage: &Value) -> Script {
        let start = vec![Step::Slot, Step::Wait(first)];
        let (before, mut body) = match self.config.head {
            Head::AtOnce => (Vec::new(), start),
            Head::WithFirstToken => (start, Vec::new()),
        };
        if self.ask.kind == Kind::Chat {
            let content = if self.ask.calls.is_empty() { "".into() } else { Value::Null };
            body.push(self.chunk(&json!({"role": "assistant", "content": content}), None));
        }
        let mut begun = 0;
        for (index, token) in self.tokens(tokens).into_iter().enumerate() {
            if index > 0 {
                body.push(Step::Wait(self.config.itl));
            }
            let delta = match token {
                Token::Text(text) => json!({"content": text}),
                Token::Arguments(call, piece) => {
                    if call == begun {
                        body.push(self.chunk(&self.call_begins(call), None));
                        begun += 1;
                    }
                    json!({"tool_calls": [{"index": call, "function": {"arguments": piece}}]})
                }
            };
            body.push(Step::Made(1));
            body.push(self.chunk(&delta, None));
        }
        body.push(self.chunk(&json!({}), Some(finish)));
        if self.ask.include_usage {
            let mut last = self.envelope(json!([]), "chat.completion.chunk");
            last["usage"] = usage.clone();
            body.push(event(&last));
        }
        body.push(Step::Send(DONE.into()));
        let headers = vec![
            ("content-type", "text/event-stream; charset=utf-8".to_owned()),
            ("cache-control", "no-cache".to_owned()),
        ];
        Script { status: 200, headers, before, body, finish: Some(finish) }
    }

    /// The delta that says which function is called; its arguments follow.
    fn call_begins(&self, index: usize) -> Value {
        let mut call = self.call(index, "");
        call["index"] = index.into();
        json!({"tool_calls": [call]})
    }

    fn chunk(&self, delta: &Value, finish: Option<&str>) -> Step {
        let choice = match self.ask.kind {
            Kind::Chat => json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}),
            Kind::Completion | Kind::Embedding => json!({
                "index": 0, "text": delta["content"].as_str().unwrap_or(""), "logprobs": null, "finish_reason": finish,
            }),
        };
        event(&self.envelope(json!([choice]), "chat.completion.chunk"))
    }

    fn envelope(&self, choices: Value, chat_object: &str) -> Value {
        let (prefix, object) = match self.ask.kind {
            Kind::Chat => ("chatcmpl", chat_object),
            Kind::Completion | Kind::Embedding => ("cmpl", "text_completion"),
        };
        json!({
            "id": format!("{prefix}-{}", self.number),
            "object": object,
            "created": CREATED,
            "model": self.ask.model.as_ref().unwrap_or(&self.config.model),
            "system_fingerprint": self.config.name,
            "choices": choices,
        })
    }
}

fn embedding(config: &EngineConfig, ask: &Ask, first: Duration) -> Script {
    let data: Vec<Value> = (0..ask.inputs)
        .map(|index| json!({"object": "embedding", "index": index, "embedding": [0.5, 0.5, 0.5, 0.5]}))
        .collect();
    let tokens = ask.tokens.len();
    let mut script = Script::json(
        200,
        &json!({
            "object": "list", "data": data, "model": ask.model.as_ref().unwrap_or(&config.model),
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }),
    );
    script.before = vec![Step::Slot, Step::Wait(first)];
    script.finish = Some("stop");
    script
}

fn event(value: &Value) -> Step {
    Step::Send(format!("data: {value}\n\n").into())
}

/// The same answer, gone wrong.
pub(crate) fn spoil(mut script: Script, fault: &Fault) -> Script {
    match fault {
        Fault::StallBeforeHead => script.before = vec![Step::Stall],
        Fault::CloseBeforeHead => script.before = vec![Step::Close],
        Fault::ResetBeforeHead => script.before = vec![Step::Reset],
        Fault::Status { code, retry_after } => {
            return Script::error(*code, "the engine was told to fail", "injected").retry_after(*retry_after);
        }
        Fault::StallAfter(tokens) => cut(&mut script, *tokens, vec![Step::Stall]),
        Fault::ResetAfter(tokens) => cut(&mut script, *tokens, vec![Step::Reset]),
        Fault::TruncateAfter(tokens) => cut(&mut script, *tokens, vec![Step::Close]),
        Fault::EndAfter(tokens) => cut(&mut script, *tokens, Vec::new()),
        Fault::ErrorEventAfter(tokens) => {
            let error = error_body("the engine was told to fail", "server_error", "injected");
            cut(&mut script, *tokens, vec![event(&error)]);
        }
        Fault::MalformedAfter(tokens) => {
            let at = place(&script.body, *tokens);
            script.body.insert(at, Step::Send("data: {\"choices\": [\n\n".into()));
        }
        Fault::Trickle { bytes, pause } => {
            script.body = script.body.into_iter().flat_map(|step| trickle(step, *bytes, *pause)).collect();
        }
        Fault::WrongLength(by) => {
            // Not a body that ends early: nothing of such a one would be sent.
            script.body.extend((*by > 0).then_some(Step::Close));
            for (name, value) in &mut script.headers {
                if let ("content-length", Ok(length)) = (*name, value.parse::<i64>()) {
                    *value = (length + by).max(0).to_string();
                }
            }
        }
    }
    script
}

/// Replaces what comes after so many tokens.
fn cut(script: &mut Script, tokens: usize, rest: Vec<Step>) {
    if let ([Step::Send(whole)], true) = (&script.body[..], tokens > 0) {
        script.body = vec![Step::Send(whole.slice(..whole.len() / 2))];
    } else {
        let at = place(&script.body, tokens);
        script.body.truncate(at);
    }
    script.body.extend(rest);
}

/// Where in a body so many tokens have been sent. None have before the slot and the first wait are over.
fn place(body: &[Step], tokens: usize) -> usize {
    let start = body.iter().take_while(|step| matches!(step, Step::Slot | Step::Wait(_))).count();
    let made = body.iter().enumerate().filter(|(_, step)| **step == Step::Made(1));
    match tokens.checked_sub(1) {
        None => start,
        // A token is made, then sent.
        Some(before) => made.map(|(index, _)| index + 2).nth(before).unwrap_or(body.len()),
    }
}

fn trickle(step: Step, bytes: usize, pause: Duration) -> Vec<Step> {
    let Step::Send(whole) = step else { return vec![step] };
    let piece = |piece: &[u8]| [Step::Send(Bytes::copy_from_slice(piece)), Step::Wait(pause)];
    whole.chunks(bytes.max(1)).flat_map(piece).collect()
}

#[cfg(test)]
mod tests;
