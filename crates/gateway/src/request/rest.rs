//! A body that passes while it arrives: which bytes of it may go on, and whether it is a body at all once it has ended.
//!
//! What would be refused in a body that is whole is refused here too, before the endpoint has all of it: half a request is none. Nothing is kept
//! but a value that may have to be another one, and those are short.

use std::ops::Range;

use bytes::Bytes;
use serde_json::{Map, Value};
use wharf_api::ApiError;

use super::chunks::Chunks;
use super::form::Form;
use super::scan::Trouble;
use super::{Members, TEXT, refusal, unfinished};

/// Members whose values wait until they are whole: whether the answer streams, and what is asked of a stream.
const WHOLE: [&str; 2] = ["stream", "stream_options"];
/// Bytes that they may have.
const MAX_WHOLE: usize = 16 << 10;

/// Reads the rest of a body of which a part is here.
#[derive(Debug)]
pub(crate) struct Rest {
    reading: Reading,
    /// What was read and has not gone on: it begins where the body does, or with a value that waits.
    waiting: Chunks,
    /// Where that lies in the body.
    at: usize,
    /// A stream is asked what it took.
    asks_usage: bool,
    /// Whether the answer streams, once that is known.
    stream: Option<bool>,
    /// The client wants to know what a stream took.
    wants_usage: bool,
}

#[derive(Debug)]
enum Reading {
    Json(Box<Members>),
    Form(Form),
}

impl Rest {
    /// Of JSON; all of it so far is in `waiting`.
    pub(super) fn of_json(scan: Members, waiting: Chunks) -> Rest {
        Rest::new(Reading::Json(Box::new(scan)), waiting)
    }

    /// Of a form.
    pub(super) fn of_form(form: Form, waiting: Chunks) -> Rest {
        Rest::new(Reading::Form(form), waiting)
    }

    fn new(reading: Reading, waiting: Chunks) -> Rest {
        Rest { reading, waiting, at: 0, asks_usage: false, stream: None, wants_usage: false }
    }

    /// If the answer turns out to be a stream, it is asked what it took. Says so before anything has gone on.
    pub(crate) fn ask_usage(&mut self) {
        self.asks_usage = true;
    }

    /// The next piece of the body; what may go on.
    ///
    /// # Errors
    /// 400, when the body is not what OpenAI's API takes.
    pub(crate) fn push(&mut self, piece: Bytes) -> Result<Chunks, ApiError> {
        match &mut self.reading {
            Reading::Json(scan) => scan.feed(&piece),
            Reading::Form(form) => form.feed(&piece),
        }
        self.waiting.push(piece);
        self.pass()
    }

    /// What may go on of that which is here.
    ///
    /// # Errors
    /// As [`Rest::push`].
    pub(crate) fn pass(&mut self) -> Result<Chunks, ApiError> {
        let scan = match &self.reading {
            Reading::Json(scan) => scan,
            Reading::Form(form) => {
                return form.trouble().map_or(Ok(std::mem::take(&mut self.waiting)), |it| Err(refusal(it)));
            }
        };
        if let Some(trouble) = scan.trouble() {
            return Err(refusal(trouble));
        }
        let (from, end) = (self.at, self.at + self.waiting.len());
        if let Some(member) = WHOLE.into_iter().find(|name| scan.span_so_far(name).is_some_and(is_too_long)) {
            return Err(refusal(Trouble::TooLong(member)));
        }
        let until = match scan.open() {
            Some((member, start)) if WHOLE.contains(&member) => start,
            _ => end,
        };
        let stays = self.waiting.split_off(until - from);
        let mut passes = std::mem::replace(&mut self.waiting, stays);
        self.at = until;

        // A value that waited lies wholly in one passage.
        let here = |name: &str| {
            let span = scan.span(name).filter(|span| (from..until).contains(&span.start))?;
            Some(span.start - from..span.end - from)
        };
        if let Some(span) = here("stream") {
            self.stream = Some(&passes.get(span)[..] == b"true");
        }
        if let Some(brace) = scan.end().filter(|brace| (from..until).contains(brace))
            && self.asks_usage
            && self.stream == Some(true)
            && scan.span("stream_options").is_none()
        {
            // The object has a member before it: the model.
            let member = Bytes::from_static(b",\"stream_options\":{\"include_usage\":true}");
            passes = passes.replaced(brace - from..brace - from, member);
        }
        if let Some(span) = here("stream_options") {
            let given: Value = serde_json::from_slice(&passes.get(span.clone())).unwrap_or_default();
            self.wants_usage = given["include_usage"] == true;
            if self.asks_usage
                && !self.wants_usage
                && let Some(options) = options(given, self.stream)
            {
                passes = passes.replaced(span, Bytes::from(Value::Object(options).to_string()));
            }
        }
        Ok(passes)
    }

    /// The body has ended.
    ///
    /// # Errors
    /// As [`Rest::push`].
    pub(crate) fn finish(&self) -> Result<(), ApiError> {
        match &self.reading {
            Reading::Json(scan) if !scan.is_done() => Err(unfinished()),
            Reading::Json(_) | Reading::Form(_) => Ok(()),
        }
    }

    /// Whether what a stream took is for us alone, as far as it is known.
    pub(crate) fn hides_usage(&self) -> bool {
        self.stream == Some(true) && !self.wants_usage
    }

    /// Bytes of the prompt so far.
    pub(crate) fn prompt_bytes(&self) -> usize {
        match &self.reading {
            Reading::Json(scan) => {
                TEXT.iter().filter_map(|name| scan.span_so_far(name)).map(|s| s.len()).sum()
            }
            Reading::Form(_) => 0,
        }
    }
}

fn is_too_long(span: Range<usize>) -> bool {
    span.len() > MAX_WHOLE
}

/// Options that ask for the usage, in place of the client's; none if they must stay.
///
/// Engines refuse options of an answer that does not stream. So options that are none become some only where it is known that it streams; a
/// client that gives some means a stream, or is refused anyway.
fn options(given: Value, stream: Option<bool>) -> Option<Map<String, Value>> {
    let mut options = match (given, stream) {
        (_, Some(false)) => return None,
        (Value::Object(options), _) => options,
        (_, Some(true)) => Map::new(),
        (_, None) => return None,
    };
    options.insert("include_usage".to_owned(), true.into());
    Some(options)
}
