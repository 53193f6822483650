//! The few things needed of `multipart/form-data` (RFC 7578), in which audio and images are sent: one short field, found while the form arrives.
//!
//! A field that is given twice is refused, since the engine might read the other one. Whatever else is wrong with a form is the engine's to say.

use memchr::memchr;

use super::scan::Trouble;

/// Bytes of a part's head; with file names and types they have a few hundred.
const MAX_HEAD: usize = 16 << 10;
/// Bytes of the field.
const MAX_FIELD: usize = 4 << 10;

/// The boundary, if the content type says that the body is a form.
pub(super) fn boundary(content_type: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(content_type).ok()?;
    let mut parts = text.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    })?;
    (!value.is_empty()).then(|| value.to_owned())
}

/// Looks for one field of a form.
#[derive(Debug)]
pub(super) struct Form {
    field: &'static str,
    /// What ends a part: a line's end, two dashes and the boundary.
    delimiter: Vec<u8>,
    /// So many bytes of the delimiter were the last ones.
    matched: usize,
    state: State,
    /// Of a part's head, or of the field.
    text: Vec<u8>,
    found: Option<String>,
    trouble: Option<Trouble>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first part, or in one that does not matter.
    Elsewhere,
    /// After a delimiter.
    Head,
    /// In the field.
    Field,
    /// After the last part.
    Done,
}

impl Form {
    /// Looks for the field of this name.
    pub(super) fn new(boundary: &str, field: &'static str) -> Form {
        Form {
            field,
            delimiter: [b"\r\n--", boundary.as_bytes()].concat(),
            // The first delimiter need not have a line before it.
            matched: 2,
            state: State::Elsewhere,
            text: Vec::new(),
            found: None,
            trouble: None,
        }
    }

    /// Reads on.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() && self.trouble.is_none() {
            if self.state == State::Elsewhere && self.matched == 0 {
                // A delimiter begins with a byte that is rare in text.
                at += memchr(b'\r', &bytes[at..]).unwrap_or(bytes.len() - at);
            }
            let Some(byte) = bytes.get(at) else { return };
            match self.state {
                State::Elsewhere | State::Field => self.part(*byte),
                State::Head => self.head(*byte),
                State::Done => return,
            }
            at += 1;
        }
    }

    /// The field's text, once it is whole.
    pub(super) fn found(&self) -> Option<&str> {
        self.found.as_deref()
    }

    /// Why the form is refused.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    fn part(&mut self, byte: u8) {
        if byte == self.delimiter[self.matched] {
            self.matched += 1;
            if self.matched == self.delimiter.len() {
                self.end_part();
            }
            return;
        }
        let missed = &self.delimiter[..self.matched];
        if self.state == State::Field {
            self.text.extend_from_slice(missed);
        }
        // The delimiter's first byte is nowhere else in it: only that byte can begin it anew.
        self.matched = usize::from(byte == self.delimiter[0]);
        if self.state == State::Field && self.matched == 0 {
            self.text.push(byte);
        }
        if self.text.len() > MAX_FIELD {
            self.trouble = Some(Trouble::TooLong(self.field));
        }
    }

    fn end_part(&mut self) {
        let text = std::mem::take(&mut self.text);
        if self.state == State::Field {
            // No model has a name that is no text.
            self.found = Some(String::from_utf8(text).unwrap_or_default());
        }
        (self.state, self.matched) = (State::Head, 0);
    }

    fn head(&mut self, byte: u8) {
        self.text.push(byte);
        if self.text == b"--" {
            self.state = State::Done;
        } else if self.text.ends_with(b"\r\n\r\n") {
            let is_field = names(&String::from_utf8_lossy(&self.text), self.field);
            if is_field && self.found.is_some() {
                self.trouble = Some(Trouble::Twice(self.field));
            }
            self.state = if is_field { State::Field } else { State::Elsewhere };
            self.text.clear();
        } else if self.text.len() > MAX_HEAD {
            self.trouble = Some(Trouble::TooLong("a part's head"));
        }
    }
}

/// Whether a part's head says that it is this field.
fn names(head: &str, field: &str) -> bool {
    head.split("\r\n").any(|line| {
        line.split_once(':').is_some_and(|(header, value)| {
            header.trim().eq_ignore_ascii_case("content-disposition")
                && parameters(value).any(|parameter| is_name(parameter, field))
        })
    })
}

/// What is between semicolons, those in quotes aside.
fn parameters(value: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |character| {
        let splits = character == ';' && !quoted;
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            _ => {}
        }
        splits
    })
}

fn is_name(parameter: &str, field: &str) -> bool {
    let Some((key, value)) = parameter.split_once('=') else { return false };
    let value = value.trim();
    let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    key.trim().eq_ignore_ascii_case("name") && bare == field
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The form with this body, however it is cut.
    fn form(body: &str) -> Form {
        let read = |pieces: &[&[u8]]| {
            let mut form = Form::new("XX", "model");
            pieces.iter().for_each(|piece| form.feed(piece));
            form
        };
        let bytes = body.as_bytes();
        let whole = read(&[bytes]);
        for cut in 0..bytes.len() {
            for second in [cut, (cut + 1).min(bytes.len()), bytes.len()] {
                let form = read(&[&bytes[..cut], &bytes[cut..second], &bytes[second..]]);
                assert_eq!(
                    (form.found(), form.trouble()),
                    (whole.found(), whole.trouble()),
                    "{cut} {second}"
                );
            }
        }
        whole
    }

    fn part(head: &str, text: &str) -> String {
        format!("--XX\r\ncontent-disposition: form-data; {head}\r\n\r\n{text}\r\n")
    }

    #[test]
    fn finds_the_field_among_others() {
        let file = part("name=\"file\"; filename=\"a; name=\\\"model\\\"\"", "--XX\r\r\n--X\r\n--x");
        let model = part("name=\"model\"", "whisper\r\n-\r");
        let prompt = part("name=\"prompt\"", "name=\"model\"");
        assert_eq!(form(&format!("{file}{model}{prompt}--XX--\r\n")).found(), Some("whisper\r\n-\r"));
        assert_eq!(form(&format!("{file}{prompt}--XX--\r\n")).found(), None);
        assert_eq!(form(&part("name=\"model\"", "cut off")).found(), None);
    }

    #[test]
    fn a_name_is_found_however_it_is_written() {
        for head in ["name=model", "NAME = \"model\"", "filename=x; name=\"model\"; other"] {
            assert_eq!(form(&format!("{}--XX--", part(head, "m"))).found(), Some("m"), "{head}");
        }
        let folded = "--XX\r\nContent-Type: text/plain\r\nCONTENT-DISPOSITION : form-data; name=\"model\"\r\n\r\n\r\n--XX--";
        assert_eq!(form(folded).found(), Some(""));
    }

    #[test]
    fn what_comes_before_the_first_part_and_after_the_last_is_no_part() {
        let model = part("name=\"model\"", "m");
        assert_eq!(form(&format!("a preamble\r\n{model}--XX--\r\n{model}")).found(), Some("m"));
        assert_eq!(form(&format!("a preamble {model}--XX--")).found(), None);
    }

    #[test]
    fn a_field_that_is_given_twice_or_never_ends_is_refused() {
        let model = part("name=\"model\"", "m");
        assert_eq!(form(&format!("{model}{model}--XX--")).trouble(), Some(Trouble::Twice("model")));
        let mut endless = Form::new("XX", "model");
        endless.feed(part("name=\"model\"", &"m".repeat(MAX_FIELD + 1)).as_bytes());
        assert_eq!(endless.trouble(), Some(Trouble::TooLong("model")));
        let mut head = Form::new("XX", "model");
        head.feed(part(&"x".repeat(MAX_HEAD), "").as_bytes());
        assert_eq!(head.trouble(), Some(Trouble::TooLong("a part's head")));
    }
}
