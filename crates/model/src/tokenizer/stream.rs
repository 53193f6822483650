//! Text as it is generated: token after token, characters only when they are complete.

use std::ops::Deref;

use super::{Strip, Tokenizer};

/// Where a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStart {
    /// At the start of a text: the space that a SentencePiece tokenizer puts there is taken away.
    Text,
    /// Within a text, for instance after the prompt of a completion: every space counts.
    Continuation,
}

/// Decodes tokens one by one. What it emits, flushed, equals [`Tokenizer::decode`] of all of them.
///
/// `T` is a reference to the tokenizer, borrowed or shared (`Arc<Tokenizer>`).
#[derive(Clone, Debug)]
pub struct DecodeStream<T> {
    tokenizer: T,
    skip_special: bool,
    /// What is still to be taken away from the start.
    strip: Strip,
    /// Bytes that are not yet a whole character, at most three after each push.
    pending: Vec<u8>,
}

impl<T: Deref<Target = Tokenizer>> DecodeStream<T> {
    /// An empty stream.
    pub fn new(tokenizer: T, skip_special: bool, start: StreamStart) -> DecodeStream<T> {
        let strip = match start {
            StreamStart::Text => tokenizer.decoder.strip,
            StreamStart::Continuation => Strip::Nothing,
        };
        DecodeStream { tokenizer, skip_special, strip, pending: Vec::new() }
    }

    /// Adds a token; the text that is now complete, `None` when there is none.
    pub fn push(&mut self, token: u32) -> Option<String> {
        if !self.tokenizer.shows(token, self.skip_special) {
            return None;
        }
        let mut bytes = self.tokenizer.token_bytes(token);
        self.strip.apply(&mut bytes);
        self.pending.extend_from_slice(&bytes);
        let text = self.complete();
        (!text.is_empty()).then_some(text)
    }

    /// Ends the stream: an incomplete character becomes U+FFFD.
    pub fn flush(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.pending);
        (!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned())
    }

    /// Takes the complete characters from `pending`, invalid bytes replaced as `from_utf8_lossy` does.
    fn complete(&mut self) -> String {
        let mut text = String::new();
        let mut rest: &[u8] = &self.pending;
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, bad) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("valid up to here"));
                    rest = bad;
                    match error.error_len() {
                        Some(len) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &rest[len..];
                        }
                        None => break,
                    }
                }
            }
        }
        let kept = rest.len();
        self.pending.drain(..self.pending.len() - kept);
        text
    }
}
