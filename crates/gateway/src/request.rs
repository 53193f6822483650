//! What a request asks for, read from its body: which model, whether it streams, how much it may take, and what of it engines cache.

mod chunks;
mod form;
mod scan;

use bytes::Bytes;
use wharf_api::ApiError;
use wharf_routing::Prompt;
use wharf_routing::prefix::{Hasher, seed};

pub(crate) use chunks::Chunks;
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

/// Reads a body while it arrives.
pub(crate) struct Reader {
    scan: Scan<20>,
    chunks: Chunks,
    form: Option<String>,
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
        Reader { scan: Scan::new(&MEMBERS), chunks: Chunks::default(), form: form::boundary(content_type) }
    }

    /// The next piece.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if self.form.is_none() {
            self.scan.feed(&piece);
        }
        self.chunks.push(piece);
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.chunks.len()
    }

    /// The body has ended.
    ///
    /// # Errors
    /// 400, when it is not what OpenAI's API takes.
    pub(crate) fn finish(self) -> Result<Call, ApiError> {
        let Reader { scan, chunks, form } = self;
        if let Some(boundary) = form {
            let model = form::field(&chunks.get(0..chunks.len()), &boundary, "model").unwrap_or_default();
            return Ok(Call::opaque(model, chunks));
        }
        if chunks.is_empty() {
            return Ok(Call::opaque(String::new(), chunks));
        }
        if let Some(trouble) = scan.trouble() {
            return Err(refusal(trouble));
        }
        if !scan.is_done() {
            return Err(invalid("the body ends before its JSON object does"));
        }
        let raw = |name: &str| scan.span(name).map(|span| chunks.get(span));
        let model = match raw("model") {
            Some(raw) => serde_json::from_slice(&raw)
                .map_err(|_| ApiError::invalid("model", "model must be a string"))?,
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
        for span in TEXT.iter().filter_map(|name| scan.span(name)) {
            chunks.slices(span).for_each(|slice| hasher.push(slice));
        }
        Ok(Call {
            model,
            stream: raw("stream").is_some_and(|raw| raw == "true"),
            prompt: hasher.finish(),
            longest: LONGEST.iter().find_map(|name| number(name)).map(|each| each.saturating_mul(answers)),
            session,
            wants_usage: wants_usage(&options),
            options: scan.span("stream_options"),
            body: chunks,
            is_json: true,
        })
    }
}

impl Call {
    /// A body that is passed on as it is.
    fn opaque(model: String, body: Chunks) -> Call {
        Call {
            model,
            stream: false,
            prompt: Prompt::default(),
            longest: None,
            session: None,
            wants_usage: false,
            body,
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
    }
}

fn invalid(message: &str) -> ApiError {
    ApiError::InvalidRequest { message: message.to_owned(), param: None, code: Some("invalid_json") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: &str) -> Call {
        let mut reader = Reader::new(b"application/json");
        for piece in body.as_bytes().chunks(7) {
            reader.push(Bytes::copy_from_slice(piece));
        }
        reader.finish().unwrap()
    }

    fn with_usage(body: &str) -> String {
        let body = call(body).body_with_usage();
        String::from_utf8(body.get(0..body.len()).to_vec()).unwrap()
    }

    #[test]
    fn reads_what_routing_needs() {
        let body = r#"{"messages":[{"role":"user","content":"\"user\":\"eve\""}],"model":"m","stream":true,"max_tokens":20,"n":3,"user":"bob"}"#;
        let call = call(body);
        assert_eq!((call.model.as_str(), call.stream, call.longest), ("m", true, Some(60)));
        assert_eq!(call.session, Some(seed([&b"bob"[..]])));
    }

    #[test]
    fn the_next_turn_of_a_conversation_begins_like_the_last() {
        let turn = |rest: &str| {
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{}"}}{rest}]}}"#, "x".repeat(500))
        };
        let (first, second) = (call(&turn("")), call(&turn(r#",{"role":"assistant","content":"y"}"#)));
        let shared =
            first.prompt.blocks.iter().zip(&second.prompt.blocks).take_while(|(a, b)| a == b).count();
        assert_eq!(shared, first.prompt.blocks.len());
        assert!(shared >= 8);
    }

    #[test]
    fn prompts_of_token_ids_of_the_same_length_differ() {
        let tokens = |n: u32| format!(r#"{{"model":"m","prompt":{:?}}}"#, vec![n; 40]);
        assert_ne!(call(&tokens(1)).prompt.blocks, call(&tokens(2)).prompt.blocks);
        assert_eq!(call(&tokens(1)).prompt.blocks, call(&tokens(1)).prompt.blocks);
    }

    #[test]
    fn usage_is_asked_for_where_the_client_did_not() {
        assert_eq!(
            with_usage(r#" {"stream":true,"model":"m"}"#),
            r#" {"stream_options":{"include_usage":true},"stream":true,"model":"m"}"#
        );
        assert_eq!(
            with_usage(r#"{"stream_options":{"a":1,"include_usage":false},"stream":true}"#),
            r#"{"stream_options":{"a":1,"include_usage":true},"stream":true}"#
        );
        // However the client writes it, it is not there twice afterwards.
        let escaped: String = "stream_options".bytes().map(|byte| format!("\\u{byte:04x}")).collect();
        assert_eq!(
            with_usage(&format!(r#"{{"stream":true,"{escaped}":{{"include_usage":false}}}}"#)),
            format!(r#"{{"stream":true,"{escaped}":{{"include_usage":true}}}}"#)
        );
        for as_it_is in [r#"{"model":"m"}"#, r#"{"stream":true,"stream_options":{"include_usage":true}}"#] {
            assert_eq!(with_usage(as_it_is), as_it_is);
        }
    }

    #[test]
    fn what_an_engine_might_read_differently_is_refused() {
        let refused = |body: &str| {
            let mut reader = Reader::new(b"application/json");
            reader.push(Bytes::copy_from_slice(body.as_bytes()));
            reader.finish().unwrap_err().to_string()
        };
        assert_eq!(refused(r#"{"model":"mine","model":"yours"}"#), "model is given twice");
        assert_eq!(refused(r#"{"model":7}"#), "model must be a string");
        assert_eq!(refused("[]"), "the body must be a JSON object");
        assert_eq!(refused(r#"{"model":"m""#), "the body ends before its JSON object does");
    }

    #[test]
    fn a_form_names_its_model_in_a_field() {
        let mut reader = Reader::new(b"multipart/form-data; boundary=\"XX\"");
        let body = "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"model\"\r\n\r\nname=\"model\"\r\n\
                    --XX\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--XX--\r\n";
        reader.push(Bytes::from_static(body.as_bytes()));
        assert_eq!(reader.finish().unwrap().model, "whisper");
    }
}
