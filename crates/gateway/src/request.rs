//! What a request asks for, read from its body: which model, whether it streams, how much it may take, and what of it engines cache.
//!
//! A body is read while it arrives and never built. Most are whole before anything is said about them; a large one is called by what its
//! beginning says, and its [`Rest`] is read on its way.

mod chunks;
mod form;
mod rest;
mod scan;

use bytes::Bytes;
use wharf_api::ApiError;
use wharf_routing::Prompt;
use wharf_routing::prefix::{Hasher, seed};

pub(crate) use chunks::Chunks;
use form::Form;
pub(crate) use rest::Rest;
use scan::{Scan, Trouble};

/// Members of a request that matter here. Whatever else there is goes through unread.
static MEMBERS: [&str; 20] = [
    "model",
    "messages",
    "prompt",
    "input",
    "tools",
    "functions",
    "instructions",
    "documents",
    "chat_template_kwargs",
    "cache_salt",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "prompt_cache_key",
    "session_id",
    "user",
];
/// What the KV of a prompt depends on beside its text: templates put tools and instructions before the messages.
const BESIDE_TEXT: [&str; 7] =
    ["model", "tools", "functions", "instructions", "documents", "chat_template_kwargs", "cache_salt"];
/// Where the text is.
const TEXT: [&str; 3] = ["messages", "prompt", "input"];
/// Who it belongs to, the most specific first. What a user writes into a prompt is not looked at.
const SESSION: [&str; 3] = ["session_id", "prompt_cache_key", "user"];
/// How long an answer may be.
const LONGEST: [&str; 3] = ["max_completion_tokens", "max_tokens", "max_output_tokens"];

/// Looks for all of them.
type Members = Scan<20>;

/// Reads a body while it arrives.
pub(crate) struct Reader {
    scan: Members,
    chunks: Chunks,
    form: Option<Form>,
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The model's name; empty where the request names none.
    pub(crate) model: String,
    /// It wants server-sent events.
    pub(crate) stream: bool,
    /// The prompt, hashed.
    pub(crate) prompt: Prompt,
    /// Tokens that each answer may have, if it says so, times the number of answers.
    pub(crate) longest: Option<u64>,
    /// Hash of the session's name, if the body has one.
    pub(crate) session: Option<u64>,
    /// The client wants to know what a stream took.
    pub(crate) wants_usage: bool,
    body: Chunks,
    options: Option<std::ops::Range<usize>>,
    is_json: bool,
}

impl Reader {
    /// For a body of this content type.
    pub(crate) fn new(content_type: &[u8]) -> Reader {
        let form = form::boundary(content_type).map(|boundary| Form::new(&boundary, "model"));
        Reader { scan: Scan::new(&MEMBERS), chunks: Chunks::default(), form }
    }

    /// The next piece.
    pub(crate) fn push(&mut self, piece: Bytes) {
        match &mut self.form {
            Some(form) => form.feed(&piece),
            None => self.scan.feed(&piece),
        }
        self.chunks.push(piece);
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether the model is known, and with it where the request goes.
    pub(crate) fn is_known(&self) -> bool {
        match &self.form {
            Some(form) => form.trouble().is_none() && form.found().is_some(),
            None => self.scan.trouble().is_none() && self.scan.span("model").is_some(),
        }
    }

    /// The body has ended.
    ///
    /// # Errors
    /// 400, when it is not what OpenAI's API takes.
    pub(crate) fn finish(self) -> Result<Call, ApiError> {
        let Reader { scan, chunks, form } = self;
        if let Some(form) = form {
            let model = model_of(&form)?;
            return Ok(Call { body: chunks, ..Call::opaque(model) });
        }
        if chunks.is_empty() {
            return Ok(Call::opaque(String::new()));
        }
        if let Some(trouble) = scan.trouble() {
            return Err(refusal(trouble));
        }
        if !scan.is_done() {
            return Err(unfinished());
        }
        let call = call(&scan, &chunks)?;
        Ok(Call { options: scan.span("stream_options"), body: chunks, is_json: true, ..call })
    }

    /// The request is called by what is known of it, and its body passes while it arrives. `length` is how long the body will be, if the client
    /// has said so: the prompt is taken to be all that is missing.
    ///
    /// # Errors
    /// As [`Reader::finish`].
    pub(crate) fn begin(self, length: Option<u64>) -> Result<(Call, Rest), ApiError> {
        let Reader { scan, chunks, form } = self;
        if let Some(form) = form {
            let model = model_of(&form)?;
            return Ok((Call::opaque(model), Rest::of_form(form, chunks)));
        }
        let mut call = call(&scan, &chunks)?;
        let missing = length.map_or(0, |length| length.saturating_sub(chunks.len() as u64));
        if prompt_comes(&scan) {
            call.prompt.bytes =
                call.prompt.bytes.saturating_add(usize::try_from(missing).unwrap_or(usize::MAX));
        }
        Ok((call, Rest::of_json(scan, chunks)))
    }
}

/// What JSON asks for, as far as it is there.
fn call(scan: &Members, chunks: &Chunks) -> Result<Call, ApiError> {
    let raw = |name: &str| scan.span(name).map(|span| chunks.get(span));
    let model = match raw("model") {
        Some(raw) => {
            serde_json::from_slice(&raw).map_err(|_| ApiError::invalid("model", "model must be a string"))?
        }
        None => String::new(),
    };
    let number = |name: &str| raw(name).and_then(|raw| serde_json::from_slice::<u64>(&raw).ok());
    let answers = number("best_of").or_else(|| number("n")).unwrap_or(1).max(1);
    let options = raw("stream_options").unwrap_or_default();
    let session = SESSION.iter().find_map(|name| {
        let text: String = serde_json::from_slice(&raw(name)?).ok()?;
        (!text.is_empty()).then(|| seed([text.as_bytes()]))
    });
    let beside: Vec<Bytes> = BESIDE_TEXT.iter().map(|name| raw(name).unwrap_or_default()).collect();
    let mut hasher = Hasher::new(seed(beside.iter().map(Bytes::as_ref)));
    for span in TEXT.iter().filter_map(|name| scan.span_so_far(name)) {
        chunks.slices(span).for_each(|slice| hasher.push(slice));
    }
    Ok(Call {
        stream: raw("stream").is_some_and(|raw| raw == "true"),
        prompt: hasher.finish(),
        longest: LONGEST.iter().find_map(|name| number(name)).map(|each| each.saturating_mul(answers)),
        session,
        wants_usage: wants_usage(&options),
        ..Call::opaque(model)
    })
}

/// Whether more of the prompt is to be expected: it has not ended, or not begun.
fn prompt_comes(scan: &Members) -> bool {
    let is_open = scan.open().is_some_and(|(member, _)| TEXT.contains(&member));
    is_open || TEXT.iter().all(|name| scan.span(name).is_none())
}

/// The model that a form names.
fn model_of(form: &Form) -> Result<String, ApiError> {
    match form.trouble() {
        Some(trouble) => Err(refusal(trouble)),
        None => Ok(form.found().unwrap_or_default().to_owned()),
    }
}

impl Call {
    /// A request for this model of which nothing else is known, and whose body is passed on as it is.
    fn opaque(model: String) -> Call {
        Call {
            model,
            stream: false,
            prompt: Prompt::default(),
            longest: None,
            session: None,
            wants_usage: false,
            body: Chunks::default(),
            options: None,
            is_json: false,
        }
    }

    /// The body as it came.
    pub(crate) fn body(&self) -> Chunks {
        self.body.clone()
    }

    /// The body, asking for the usage of a stream even if the client did not.
    pub(crate) fn body_with_usage(&self) -> Chunks {
        if !self.is_json || !self.stream || self.wants_usage {
            return self.body.clone();
        }
        match &self.options {
            // Other options stay; `include_usage` was absent or false.
            Some(span) => {
                let given = self.body.get(span.clone());
                let mut options: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_slice(&given).unwrap_or_default();
                options.insert("include_usage".to_owned(), true.into());
                let text = serde_json::Value::Object(options).to_string();
                self.body.replaced(span.clone(), Bytes::from(text))
            }
            None => {
                let first = self.body.slices(0..self.body.len()).flatten().position(|byte| *byte == b'{');
                let after = first.map_or(0, |position| position + 1);
                let member = Bytes::from_static(b"\"stream_options\":{\"include_usage\":true},");
                self.body.replaced(after..after, member)
            }
        }
    }
}

fn wants_usage(options: &[u8]) -> bool {
    let options: Option<serde_json::Value> = serde_json::from_slice(options).ok();
    options.is_some_and(|options| options["include_usage"] == true)
}

fn refusal(trouble: Trouble) -> ApiError {
    match trouble {
        Trouble::NotAnObject => invalid("the body must be a JSON object"),
        Trouble::Syntax(byte) => invalid(&format!("the body is no JSON from byte {byte} on")),
        Trouble::Twice(member) => ApiError::invalid(member, format!("{member} is given twice")),
        Trouble::TooLong(member) => ApiError::invalid(member, format!("{member} is too long")),
    }
}

fn unfinished() -> ApiError {
    invalid("the body ends before its JSON object does")
}

fn invalid(message: &str) -> ApiError {
    ApiError::InvalidRequest { message: message.to_owned(), param: None, code: Some("invalid_json") }
}

#[cfg(test)]
mod tests;
