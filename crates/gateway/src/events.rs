//! A stream of server-sent events on its way through: only whole events leave, usage is read, and a stream that breaks off gets an end.
//!
//! Pieces that hold nothing of interest pass as they are, without a copy.

use bytes::{Bytes, BytesMut};
use memchr::{memchr_iter, memmem};
use serde::Deserialize;
use serde::de::IgnoredAny;
use wharf_api::{ApiError, sse};

use crate::usage::{self, Usage};

/// An event longer than this is passed on in parts: nobody's token is a megabyte.
const MAX_EVENT: usize = 1 << 20;

/// Watches one stream.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// The beginning of an event that is not whole.
    held: BytesMut,
    /// The client did not ask for usage: the event that only has that is left out.
    drop_usage: bool,
    /// What the engine said the answer took.
    pub(crate) usage: Option<Usage>,
    /// Why the answer ended.
    pub(crate) finish: Option<&'static str>,
    /// Events that passed; about one for each token.
    pub(crate) count: u64,
    /// The last event was the one that ends a good stream.
    pub(crate) done: bool,
}

#[derive(Deserialize)]
struct UsageEvent {
    #[serde(default)]
    choices: Vec<IgnoredAny>,
    usage: Option<Usage>,
}

impl Events {
    /// `drop_usage`: the client did not ask for the usage that the engine was asked for.
    pub(crate) fn new(drop_usage: bool) -> Events {
        Events { drop_usage, ..Events::default() }
    }

    /// The next piece; returns what may go on.
    pub(crate) fn push(&mut self, piece: Bytes) -> Bytes {
        if self.held.is_empty() && ends_event(&piece) && !usage::is_in(&piece) {
            let done = memmem::find(&piece, b"data: [DONE]").is_some();
            self.count += count_events(&piece) - u64::from(done);
            self.done |= done;
            self.finish = usage::finish_reason(&piece).or(self.finish);
            return piece;
        }
        self.held.extend_from_slice(&piece);
        let mut passed = BytesMut::with_capacity(self.held.len());
        while let Some(end) = event_end(&self.held) {
            let event = self.held.split_to(end);
            if self.keeps(&event) {
                passed.extend_from_slice(&event);
            }
        }
        if self.held.len() > MAX_EVENT {
            passed.extend_from_slice(&self.held.split());
        }
        passed.freeze()
    }

    /// What is held of an event that will not be whole; the stream has ended as HTTP wants it.
    pub(crate) fn rest(&mut self) -> Bytes {
        self.held.split().freeze()
    }

    /// What a client gets that waits for more of a stream that has broken off.
    pub(crate) fn broken_off(&mut self, error: &ApiError) -> Bytes {
        self.held.clear();
        let frame = sse::frame(&error.body()).unwrap_or_default();
        Bytes::from(frame + sse::DONE)
    }

    fn keeps(&mut self, event: &[u8]) -> bool {
        let data = memmem::find(event, b"data:").map(|at| event[at + 5..].trim_ascii());
        let Some(data) = data else { return true };
        if data == b"[DONE]" {
            self.done = true;
            return true;
        }
        self.count += 1;
        self.finish = usage::finish_reason(data).or(self.finish);
        if usage::is_in(data)
            && let Ok(UsageEvent { choices, usage: Some(usage) }) = serde_json::from_slice(data)
        {
            self.usage = Some(usage);
            if choices.is_empty() && self.drop_usage {
                self.count -= 1;
                return false;
            }
        }
        true
    }
}

fn ends_event(piece: &[u8]) -> bool {
    piece.ends_with(b"\n\n") || piece.ends_with(b"\r\n\r\n")
}

/// The end of the first event: after a line that is empty.
fn event_end(text: &[u8]) -> Option<usize> {
    memchr_iter(b'\n', text).find_map(|at| match &text[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

fn count_events(piece: &[u8]) -> u64 {
    memmem::find_iter(piece, b"data:").count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n";
    const LAST: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";

    fn through(drop_usage: bool, pieces: &[&str]) -> (String, Events) {
        let mut events = Events::new(drop_usage);
        let mut passed = String::new();
        for piece in pieces {
            let piece = events.push(Bytes::copy_from_slice(piece.as_bytes()));
            passed.push_str(std::str::from_utf8(&piece).unwrap());
        }
        (passed, events)
    }

    #[test]
    fn only_whole_events_leave_however_they_arrive() {
        let stream = format!("{TOKEN}{TOKEN}{LAST}{USAGE}data: [DONE]\n\n");
        for cut in 0..stream.len() {
            let (passed, events) = through(false, &[&stream[..cut], &stream[cut..]]);
            assert_eq!(passed, stream);
            assert!(events.done && events.finish == Some("stop"));
            assert_eq!(events.usage.unwrap().completion_tokens, 2);
        }
        assert_eq!(through(false, &[TOKEN, "data: {\"cho"]).0, TOKEN);
    }

    #[test]
    fn usage_that_nobody_asked_for_is_read_and_left_out() {
        let stream = format!("{TOKEN}{USAGE}data: [DONE]\r\n\r\n");
        for cut in 0..stream.len() {
            let (passed, events) = through(true, &[&stream[..cut], &stream[cut..]]);
            assert_eq!(passed, format!("{TOKEN}data: [DONE]\r\n\r\n"));
            assert_eq!((events.usage.unwrap().prompt_tokens, events.count), (3, 1));
        }
    }

    #[test]
    fn a_broken_stream_ends_with_an_error_and_without_half_an_event() {
        let (_, mut events) = through(false, &[TOKEN, "data: {\"half"]);
        let end = events.broken_off(&ApiError::Internal("gone".to_owned()));
        let end = std::str::from_utf8(&end).unwrap();
        assert!(
            end.starts_with("data: {\"error\":{\"message\":\"gone\"") && end.ends_with("data: [DONE]\n\n"),
            "{end}"
        );
        assert!(events.rest().is_empty());
    }
}
