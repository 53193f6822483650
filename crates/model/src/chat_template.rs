//! Renders a conversation into the text that a model was trained on, with the Jinja template that comes with it.
//!
//! Templates are foreign programs: they run without access to anything but their input, on a budget of
//! instructions and memory. Hugging Face's `apply_chat_template` is the reference for what they see and print.

mod json;
mod python;
mod time;

use std::fmt;

use indexmap::IndexMap;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};

use crate::gguf::Metadata;

/// Longest prompt that a template may print, bytes: thirty times the largest context window in use.
const MAX_OUTPUT: usize = 64 << 20;

/// Longest template accepted, bytes; the longest published ones are under 100 KB.
const MAX_SOURCE: usize = 1 << 20;

/// Instructions, and 64-byte units of memory, that any template may use. A template takes about two hundred
/// instructions a message.
const BASE_FUEL: u64 = 200_000;

/// Fuel added for each JSON value of the input (a message has at least three), so that long conversations pass.
const FUEL_PER_VALUE: u64 = 200;

/// Bytes of input that add one unit: each byte may be copied sixteen times.
const BYTES_PER_FUEL: u64 = 4;

/// Largest budget, whatever the input; it bounds the stack below.
const MAX_FUEL: u64 = 4_000_000;

/// Stack for each unit of fuel, bytes. Templates can nest values one level for every few instructions, and
/// dropping, comparing or printing a value recurses; the stack is reserved, not used, by honest ones.
const STACK_PER_FUEL: u64 = 256;

/// Name of the template that a model with several uses when there is no other reason.
const DEFAULT: &str = "default";

/// Name of the template for conversations with tools.
const TOOL_USE: &str = "tool_use";

/// A model's chat template, or its several named ones. Immutable: share it behind an `Arc`.
pub struct ChatTemplate {
    templates: IndexMap<String, Template>,
}

struct Template {
    source: String,
    environment: Environment<'static>,
}

/// What a template sees.
#[derive(Clone, Copy, Debug)]
pub struct ChatInput<'a> {
    /// An array of messages, objects with `role`, `content` and what else the template knows.
    pub messages: &'a serde_json::Value,
    /// Tools in OpenAI's form; selects the template named `tool_use` when the model has one.
    pub tools: Option<&'a serde_json::Value>,
    /// Ends the text with what makes the model answer.
    pub add_generation_prompt: bool,
    /// Further variables (`enable_thinking`, `documents`, …); they override the others.
    pub extra: Option<&'a serde_json::Map<String, serde_json::Value>>,
    /// Text of the begin-of-sequence token; undefined in the template when absent.
    pub bos_token: Option<&'a str>,
    /// Text of the end-of-sequence token; undefined in the template when absent.
    pub eos_token: Option<&'a str>,
    /// Seconds since the Unix epoch, shifted to the time zone that `strftime_now` shall print; the
    /// function is undefined when absent.
    pub now: Option<i64>,
}

impl<'a> ChatInput<'a> {
    /// Messages alone; set the other fields as needed.
    pub fn new(messages: &'a serde_json::Value) -> ChatInput<'a> {
        ChatInput {
            messages,
            tools: None,
            add_generation_prompt: false,
            extra: None,
            bos_token: None,
            eos_token: None,
            now: None,
        }
    }
}

/// Why a template could not be read or rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatTemplateError {
    /// The template is too long to be one.
    #[error("the chat template is {bytes} bytes long, at most {MAX_SOURCE} are accepted")]
    SourceTooLong {
        /// Its length.
        bytes: usize,
    },
    /// `tokenizer_config.json` or the caller does not hold a chat template where it should.
    #[error("failed to find the chat template in the tokenizer's configuration: {reason}")]
    Config {
        /// What is wrong.
        reason: String,
    },
    /// The template is not valid Jinja.
    #[error("failed to parse the chat template {name}{}", Line(*.line))]
    Parse {
        /// Which template.
        name: String,
        /// Line in the template.
        line: Option<usize>,
        /// What the parser says.
        source: Box<Error>,
    },
    /// The template refused the conversation (`raise_exception`).
    #[error("the chat template refuses this conversation: {message}")]
    Refused {
        /// In the template's words.
        message: String,
    },
    /// The template ran for too long or used too much memory.
    #[error("the chat template used more than its {fuel} instructions")]
    OutOfFuel {
        /// Its budget.
        fuel: u64,
    },
    /// The system gave no thread to render on.
    #[error("failed to start a thread with {stack} bytes of stack for the chat template")]
    Thread {
        /// Stack asked for.
        stack: usize,
        /// Why.
        source: std::io::Error,
    },
    /// The template printed without end.
    #[error("the chat template printed more than {MAX_OUTPUT} bytes")]
    OutputTooLong,
    /// The template failed.
    #[error("failed to render the chat template {name}{}", Line(*.line))]
    Render {
        /// Which template.
        name: String,
        /// Line in the template.
        line: Option<usize>,
        /// What failed.
        source: Box<Error>,
    },
}

struct Line(Option<usize>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, " at line {line}"))
    }
}

impl ChatTemplate {
    /// A single template.
    ///
    /// # Errors
    /// The source is not valid Jinja or too long.
    pub fn parse(source: &str) -> Result<ChatTemplate, ChatTemplateError> {
        ChatTemplate::named([(DEFAULT.to_owned(), source.to_owned())])
    }

    /// Several templates by name.
    ///
    /// # Errors
    /// As [`ChatTemplate::parse`], and an empty list.
    pub fn named(
        sources: impl IntoIterator<Item = (String, String)>,
    ) -> Result<ChatTemplate, ChatTemplateError> {
        let templates = sources
            .into_iter()
            .map(|(name, source)| Template::parse(&name, source).map(|template| (name, template)))
            .collect::<Result<IndexMap<_, _>, _>>()?;
        if templates.is_empty() {
            return Err(ChatTemplateError::Config {
                reason: "the list of chat templates is empty".to_owned(),
            });
        }
        Ok(ChatTemplate { templates })
    }

    /// The template of a GGUF file, `None` when it has none.
    ///
    /// # Errors
    /// As [`ChatTemplate::parse`].
    pub fn from_gguf(meta: &Metadata) -> Result<Option<ChatTemplate>, ChatTemplateError> {
        let Some(default) = meta.str("tokenizer.chat_template") else { return Ok(None) };
        let mut sources = vec![(DEFAULT.to_owned(), default.to_owned())];
        for (key, _) in meta.0.range("tokenizer.chat_template.".to_owned()..) {
            let Some(name) = key.strip_prefix("tokenizer.chat_template.") else { break };
            if let Some(source) = meta.str(key) {
                sources.push((name.to_owned(), source.to_owned()));
            }
        }
        ChatTemplate::named(sources).map(Some)
    }

    /// The template of a Hugging Face folder: `chat_template.jinja` when there is one, else the
    /// `chat_template` of `tokenizer_config.json`, a text or a list of named ones. `None` when there is none.
    ///
    /// # Errors
    /// As [`ChatTemplate::parse`], or the configuration is not what it should be.
    pub fn from_hf(
        tokenizer_config_json: Option<&[u8]>,
        chat_template_jinja: Option<&str>,
    ) -> Result<Option<ChatTemplate>, ChatTemplateError> {
        if let Some(source) = chat_template_jinja {
            return ChatTemplate::parse(source).map(Some);
        }
        let Some(bytes) = tokenizer_config_json else { return Ok(None) };
        let wrong = |reason: String| ChatTemplateError::Config { reason };
        let config: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        match config.get("chat_template") {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(serde_json::Value::String(source)) => ChatTemplate::parse(source).map(Some),
            Some(serde_json::Value::Array(entries)) => {
                let text = |entry: &serde_json::Value, key: &str| {
                    let text = entry.get(key).and_then(serde_json::Value::as_str).map(str::to_owned);
                    text.ok_or_else(|| wrong(format!("an entry of chat_template has no text {key:?}")))
                };
                let sources = entries
                    .iter()
                    .map(|entry| Ok((text(entry, "name")?, text(entry, "template")?)))
                    .collect::<Result<Vec<_>, _>>()?;
                if sources.is_empty() {
                    return Ok(None);
                }
                ChatTemplate::named(sources).map(Some)
            }
            Some(_) => Err(wrong("chat_template is neither a text nor a list".to_owned())),
        }
    }

    /// Names and sources of the templates, for people.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.templates.iter().map(|(name, template)| (name.as_str(), template.source.as_str()))
    }

    /// The prompt for a conversation.
    ///
    /// # Errors
    /// The template refuses the conversation, fails, or exceeds its budget.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, ChatTemplateError> {
        let (name, template) = self.select(input);
        template.render(name, input)
    }

    fn select(&self, input: &ChatInput<'_>) -> (&str, &Template) {
        let tools = input.tools.is_some_and(|tools| !tools.is_null());
        let (name, template) = Some(TOOL_USE)
            .filter(|_| tools)
            .and_then(|name| self.templates.get_key_value(name))
            .or_else(|| self.templates.get_key_value(DEFAULT))
            .or_else(|| self.templates.first())
            .expect("construction refuses an empty list");
        (name, template)
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.sources()).finish()
    }
}

impl Template {
    fn parse(name: &str, source: String) -> Result<Template, ChatTemplateError> {
        if source.len() > MAX_SOURCE {
            return Err(ChatTemplateError::SourceTooLong { bytes: source.len() });
        }
        let failed = |error: Error| ChatTemplateError::Parse {
            name: name.to_owned(),
            line: error.line(),
            source: Box::new(error),
        };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?;
        environment.set_syntax(syntax);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(python::method);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", json::to_json);
        environment.add_filter("wordcount", |text: &str| text.split_whitespace().count());
        // Errors would carry the template's variables, which are what people said.
        environment.set_debug(false);
        environment.add_template_owned("chat", without_generation_tags(&source)).map_err(failed)?;
        Ok(Template { source, environment })
    }

    /// Renders on a thread of its own, whose stack suits the budget.
    fn render(&self, name: &str, input: &ChatInput<'_>) -> Result<String, ChatTemplateError> {
        let fuel = budget(input);
        let stack = (fuel * STACK_PER_FUEL) as usize;
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("chat-template".to_owned())
                .stack_size(stack)
                .spawn_scoped(scope, || self.render_here(name, input, fuel))
                .map_err(|source| ChatTemplateError::Thread { stack, source })?
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn render_here(&self, name: &str, input: &ChatInput<'_>, fuel: u64) -> Result<String, ChatTemplateError> {
        // A clone shares the compiled template; fuel belongs to the environment.
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let failed = |error: Error| ChatTemplateError::Render {
            name: name.to_owned(),
            line: error.line(),
            source: Box::new(error),
        };
        let template = environment.get_template("chat").map_err(failed)?;
        let mut output = Capped(Vec::new());
        match template.render_captured_to(context(input), &mut output) {
            Ok(_) => Ok(String::from_utf8_lossy(&output.0).into_owned()),
            Err(error) => Err(explain(error, fuel, output.0.len()).unwrap_or_else(failed)),
        }
    }
}

fn budget(input: &ChatInput<'_>) -> u64 {
    let ChatInput { messages, tools, add_generation_prompt: _, extra, bos_token: _, eos_token: _, now: _ } =
        input;
    let variables = extra.iter().flat_map(|extra| extra.values());
    let parts = [*messages].into_iter().chain(*tools).chain(variables);
    (BASE_FUEL + parts.map(fuel_for).sum::<u64>()).min(MAX_FUEL)
}

fn fuel_for(json: &serde_json::Value) -> u64 {
    FUEL_PER_VALUE
        + match json {
            serde_json::Value::String(text) => text.len() as u64 / BYTES_PER_FUEL,
            serde_json::Value::Array(items) => items.iter().map(fuel_for).sum(),
            serde_json::Value::Object(entries) => entries.values().map(fuel_for).sum(),
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => 0,
        }
}

/// The errors that have a cause of their own; the others are returned.
fn explain(error: Error, fuel: u64, printed: usize) -> Result<ChatTemplateError, Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(this) = cause {
        if let Some(Raised(message)) = this.downcast_ref() {
            return Ok(ChatTemplateError::Refused { message: message.clone() });
        }
        match this.downcast_ref::<Error>().map(Error::kind) {
            Some(ErrorKind::OutOfFuel) => return Ok(ChatTemplateError::OutOfFuel { fuel }),
            Some(ErrorKind::WriteFailure) if printed >= MAX_OUTPUT => {
                return Ok(ChatTemplateError::OutputTooLong);
            }
            _ => cause = this.source(),
        }
    }
    Err(error)
}

/// A buffer that refuses to grow beyond the cap.
struct Capped(Vec<u8>);

impl std::io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = MAX_OUTPUT - self.0.len();
        if bytes.len() > room {
            self.0.resize(MAX_OUTPUT, 0);
            return Err(std::io::Error::other("the prompt is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What `raise_exception` said, carried as an error's source.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let raised = Raised(message.to_string());
    Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(raised))
}

fn context(input: &ChatInput<'_>) -> Value {
    let ChatInput { messages, tools, add_generation_prompt, extra, bos_token, eos_token, now } = *input;
    let mut variables: IndexMap<Value, Value> = IndexMap::new();
    let mut set = |name: &str, value: Value| variables.insert(Value::from(name), value);
    set("messages", messages_value(messages));
    set("tools", tools.map_or(Value::from(()), value_of));
    set("documents", Value::from(()));
    set("add_generation_prompt", Value::from(add_generation_prompt));
    for (name, token) in [("bos_token", bos_token), ("eos_token", eos_token)] {
        if let Some(token) = token {
            set(name, Value::from(token));
        }
    }
    if let Some(now) = now {
        let strftime_now = move |format: &str| time::strftime(now, format);
        set("strftime_now", Value::from_function(strftime_now));
    }
    for (name, value) in extra.into_iter().flatten() {
        set(name, value_of(value));
    }
    Value::from(variables)
}

/// The template engine's value for a JSON value, object keys in their order.
fn value_of(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(b) => Value::from(*b),
        serde_json::Value::Number(n) => {
            if let Some(n) = n.as_i64() {
                Value::from(n)
            } else if let Some(n) = n.as_u64() {
                Value::from(n)
            } else {
                Value::from(n.as_f64().unwrap_or(f64::NAN))
            }
        }
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => Value::from(items.iter().map(value_of).collect::<Vec<_>>()),
        serde_json::Value::Object(entries) => {
            let entry =
                |(key, value): (&String, &serde_json::Value)| (Value::from(key.as_str()), value_of(value));
            Value::from(entries.iter().map(entry).collect::<IndexMap<Value, Value>>())
        }
    }
}

/// Messages as Transformers hands them to templates: keys without a value are left out, as many templates
/// take them for text, and reasoning is there under each of the names that templates read.
fn messages_value(messages: &serde_json::Value) -> Value {
    let serde_json::Value::Array(items) = messages else { return value_of(messages) };
    let message = |item: &serde_json::Value| {
        let serde_json::Value::Object(entries) = item else { return value_of(item) };
        let present = entries.iter().filter(|(_, value)| !value.is_null());
        let mut message: IndexMap<Value, Value> =
            present.map(|(key, value)| (Value::from(key.as_str()), value_of(value))).collect();
        let names = ["reasoning_content", "thinking", "reasoning"];
        let reasoning = names.iter().find_map(|name| entries.get(*name).filter(|value| !value.is_null()));
        if let Some(reasoning) = reasoning {
            message.entry(Value::from("thinking")).or_insert_with(|| value_of(reasoning));
            message.insert(Value::from("reasoning_content"), value_of(reasoning));
        }
        Value::from(message)
    };
    Value::from(items.iter().map(message).collect::<Vec<_>>())
}

/// Replaces `{% generation %}` blocks, which mark the assistant's text for training, by ones without effect.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        // The tag ends behind its opening: in `{%}` the percent sign cannot be both.
        let Some(end) = tag[2..].find("%}").map(|end| end + 2) else {
            rest = tag;
            break;
        };
        let inner = &tag[2..end];
        let name = inner.trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+'));
        let replacement = match name {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match replacement {
            Some(replacement) => {
                out.push_str("{%");
                out.push_str(&inner.replacen(name, replacement, 1));
                out.push_str("%}");
                rest = &tag[end + 2..];
            }
            None => {
                out.push_str("{%");
                rest = &tag[2..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
