//! `POST /v1/chat/completions`: the request.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::generation::{Generation, GenerationFields, logprob_count};
use super::json::parse_json;
use crate::ApiError;

/// A checked chat request.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// The conversation, at least one message.
    pub messages: Vec<Message>,
    /// Sampling, stopping, streaming.
    pub generation: Generation,
    /// `Some(k)`: log-probabilities of the chosen token and the `k` most likely ones.
    pub logprobs: Option<usize>,
    /// What the chat template gets besides the messages.
    pub template: TemplateOptions,
}

/// What the chat template gets besides the messages.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateOptions {
    /// Tools, as the client wrote them; absent when `tool_choice` is `none`.
    pub tools: Option<Value>,
    /// End the prompt where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// Leave the last message open, so that the answer continues it.
    pub continue_final_message: bool,
    /// Further variables of the template.
    pub kwargs: Map<String, Value>,
}

/// One message, as the template will see it: `content` is a string or null, arguments of tool calls are objects.
#[derive(Clone, Debug, PartialEq)]
pub struct Message(pub Map<String, Value>);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ChatFields {
    messages: Option<Vec<Map<String, Value>>>,
    logprobs: Option<bool>,
    top_logprobs: Option<i64>,
    tool_choice: Option<Value>,
    chat_template: Option<Value>,
    echo: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TemplateFields {
    tools: Option<Vec<Value>>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    chat_template_kwargs: Option<Map<String, Value>>,
}

impl ChatRequest {
    /// Parses and checks a request body.
    ///
    /// # Errors
    /// [`ApiError::InvalidRequest`] naming the field.
    pub fn parse(body: &[u8]) -> Result<ChatRequest, ApiError> {
        // The same bytes are read as several types: `#[serde(flatten)]` would lose the path of a wrong field.
        let fields: ChatFields = parse_json(body)?;
        let generation = parse_json::<GenerationFields>(body)?.check()?;
        let mut template = parse_template_options(body)?;
        let messages = check_messages(fields.messages)?;
        match fields.tool_choice.as_ref().map(|choice| choice.as_str()) {
            None | Some(Some("auto")) => {}
            Some(Some("none")) => template.tools = None,
            Some(_) => {
                let message = "tool_choice must be \"none\" or \"auto\"; forcing a tool is not supported yet";
                return Err(ApiError::unsupported("tool_choice", message));
            }
        }
        if fields.chat_template.is_some() {
            let message = "chat_template is fixed by the server; set chat_template_kwargs instead";
            return Err(ApiError::unsupported("chat_template", message));
        }
        if fields.echo == Some(true) {
            return Err(ApiError::unsupported("echo", "echo is not supported for chat completions"));
        }
        let top = logprob_count("top_logprobs", fields.top_logprobs)?;
        let logprobs = match (fields.logprobs.unwrap_or(false), top) {
            (true, top) => Some(top.unwrap_or(0)),
            (false, None | Some(0)) => None,
            (false, Some(_)) => {
                return Err(ApiError::invalid("top_logprobs", "top_logprobs needs logprobs to be true"));
            }
        };
        Ok(ChatRequest { messages, generation, logprobs, template })
    }
}

/// Reads the template's options from a body that may have other fields.
pub(super) fn parse_template_options(body: &[u8]) -> Result<TemplateOptions, ApiError> {
    let fields: TemplateFields = parse_json(body)?;
    let continue_final_message = fields.continue_final_message.unwrap_or(false);
    let add_generation_prompt = fields.add_generation_prompt.unwrap_or(!continue_final_message);
    if continue_final_message && add_generation_prompt {
        let message = "continue_final_message and add_generation_prompt cannot both be true";
        return Err(ApiError::invalid("continue_final_message", message));
    }
    let tools = fields.tools.filter(|tools| !tools.is_empty());
    if let Some(index) = tools.iter().flatten().position(|tool| !tool.is_object()) {
        return Err(ApiError::invalid(
            format!("tools[{index}]"),
            format!("tools[{index}] must be an object"),
        ));
    }
    Ok(TemplateOptions {
        tools: tools.map(Value::Array),
        add_generation_prompt,
        continue_final_message,
        kwargs: fields.chat_template_kwargs.unwrap_or_default(),
    })
}

/// Checks a conversation and brings it into the form that templates expect.
pub(super) fn check_messages(messages: Option<Vec<Map<String, Value>>>) -> Result<Vec<Message>, ApiError> {
    let messages = messages.ok_or_else(|| ApiError::invalid("messages", "messages is missing"))?;
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "messages must have at least one message"));
    }
    messages.into_iter().enumerate().map(|(index, message)| check_message(index, message)).collect()
}

fn check_message(index: usize, mut message: Map<String, Value>) -> Result<Message, ApiError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let wrong = |field: &str, must: &str| Err(ApiError::invalid(at(field), format!("{} {must}", at(field))));
    match message.get("role") {
        Some(Value::String(role)) if !role.is_empty() => {}
        Some(_) => return wrong("role", "must be a string that is not empty"),
        None => return wrong("role", "is missing"),
    }
    let content = match message.remove("content") {
        Some(Value::String(text)) => Value::String(text),
        // An assistant's message with tool calls has no content.
        None | Some(Value::Null) if message.contains_key("tool_calls") => Value::Null,
        None | Some(Value::Null) => return wrong("content", "is missing"),
        Some(Value::Array(parts)) => Value::String(join_text_parts(&at("content"), &parts)?),
        Some(_) => return wrong("content", "must be a string or a list of text parts"),
    };
    message.insert("content".to_owned(), content);
    if let Some(calls) = message.get_mut("tool_calls") {
        match calls {
            Value::Array(calls) => calls.iter_mut().for_each(open_arguments),
            Value::Null => {
                message.remove("tool_calls");
            }
            _ => return wrong("tool_calls", "must be a list"),
        }
    }
    Ok(Message(message))
}

/// Text models see one string; parts are joined by newlines, as vLLM does.
fn join_text_parts(path: &str, parts: &[Value]) -> Result<String, ApiError> {
    let mut texts = Vec::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match (part.get("type").and_then(Value::as_str), part.get("text").and_then(Value::as_str)) {
            (Some("text"), Some(text)) => texts.push(text),
            (Some(kind), _) if kind != "text" => {
                let message = format!("{path} has type {kind:?}; this model takes text only");
                return Err(ApiError::unsupported(path, message));
            }
            _ => {
                let message = format!("{path} must be an object with type \"text\" and a text");
                return Err(ApiError::invalid(path, message));
            }
        }
    }
    Ok(texts.join("\n"))
}

/// OpenAI sends a call's arguments as JSON inside a string; templates print them with `tojson`, so they need the
/// object. A string that is no JSON object stays as it is.
fn open_arguments(call: &mut Value) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else { return };
    let opened = arguments.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    if let Some(object @ Value::Object(_)) = opened {
        *arguments = object;
    }
}
