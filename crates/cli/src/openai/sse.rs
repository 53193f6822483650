//! Decides where one server-sent event ends and the next begins, whatever pieces the bytes arrive in.
//!
//! Follows "Interpreting an event stream" in the HTML standard (section 9.2.6), with one leniency: an event
//! that the end of the stream cuts off before its blank line still counts, because some servers end so.

/// Larger events come from no honest server.
const MAX_EVENT_BYTES: usize = 8 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    /// The `event` field, empty when absent.
    pub(crate) event: String,
    /// The `data` lines, joined by line feeds.
    pub(crate) data: String,
}

/// Why the bytes are not an event stream that we read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SseError {
    #[error("an event is longer than {MAX_EVENT_BYTES} bytes")]
    TooLong,
    #[error("an event line is not UTF-8")]
    NotUtf8,
}

/// Collects bytes into events.
#[derive(Default)]
pub(crate) struct SseParser {
    line: Vec<u8>,
    pending: SseEvent,
    has_data: bool,
    after_cr: bool,
    past_first_line: bool,
}

impl SseParser {
    /// The events that `bytes` complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, SseError> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => events.extend(self.end_line()?),
                _ if self.line.len() + self.pending.data.len() >= MAX_EVENT_BYTES => {
                    return Err(SseError::TooLong);
                }
                _ => self.line.push(byte),
            }
        }
        Ok(events)
    }

    /// The event that the end of the stream cut off, if any.
    pub(crate) fn finish(&mut self) -> Result<Option<SseEvent>, SseError> {
        if !self.line.is_empty() {
            self.end_line()?;
        }
        Ok(self.dispatch())
    }

    fn end_line(&mut self) -> Result<Option<SseEvent>, SseError> {
        let bytes = std::mem::take(&mut self.line);
        let text = std::str::from_utf8(&bytes).map_err(|_| SseError::NotUtf8)?;
        let text = if self.past_first_line { text } else { text.trim_start_matches('\u{feff}') };
        self.past_first_line = true;
        if text.is_empty() {
            return Ok(self.dispatch());
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.pending.data.push('\n');
                }
                self.pending.data.push_str(value);
            }
            "event" => self.pending.event = value.to_owned(),
            // Comments (an empty field name), `id`, `retry` and unknown fields mean nothing to us.
            _ => {}
        }
        Ok(None)
    }

    fn dispatch(&mut self) -> Option<SseEvent> {
        let event = std::mem::take(&mut self.pending);
        std::mem::take(&mut self.has_data).then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "\u{feff}: hello\r\ndata: {\"a\":1}\r\n\r\nevent: error\rdata:x\rdata: y\r\rid: 7\n\ndata: é😀\n\ndata: [DONE]\n";

    fn events_in_pieces_of(size: usize) -> Vec<SseEvent> {
        let mut parser = SseParser::default();
        let mut events = Vec::new();
        for piece in STREAM.as_bytes().chunks(size) {
            events.extend(parser.push(piece).unwrap());
        }
        events.extend(parser.finish().unwrap());
        events
    }

    #[test]
    fn events_do_not_depend_on_how_the_bytes_were_split() {
        let event = |event: &str, data: &str| SseEvent { event: event.into(), data: data.into() };
        let expected =
            [event("", "{\"a\":1}"), event("error", "x\ny"), event("", "é😀"), event("", "[DONE]")];
        for size in 1..=STREAM.len() {
            assert_eq!(events_in_pieces_of(size), expected, "in pieces of {size} bytes");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = SseParser::default();
        let block = vec![b'a'; MAX_EVENT_BYTES];
        parser.push(&block).unwrap();
        assert_eq!(parser.push(b"a"), Err(SseError::TooLong));
    }

    #[test]
    fn broken_utf8_is_refused() {
        assert_eq!(SseParser::default().push(b"data: \xff\n"), Err(SseError::NotUtf8));
    }
}
