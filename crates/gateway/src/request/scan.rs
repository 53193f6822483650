//! Finds the members of a JSON object that routing needs, while the object arrives, without building or copying it.
//!
//! Only the outermost object's members count: the same words inside a prompt or inside a message are text. A member that is given twice is
//! refused, since the engine might read the other one. The rest of the JSON is not checked; the engine does that.

use std::ops::Range;

use memchr::memchr2;

/// Bytes of the longest key that is compared with what is looked for: each of 24 characters may be written as an escape of six.
const MAX_KEY: usize = 24 * 6;

/// Looks for certain members of the outermost object.
#[derive(Debug)]
pub(crate) struct Scan<const N: usize> {
    keys: &'static [&'static str; N],
    spans: [Option<Range<usize>>; N],
    state: State,
    /// Bytes seen so far.
    offset: usize,
    key: Vec<u8>,
    /// The member whose value is read, and where that began.
    member: Option<(usize, usize)>,
    /// Where the object's last byte is.
    end: Option<usize>,
    trouble: Option<Trouble>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the object.
    Start,
    /// After `{` or a comma.
    BeforeKey,
    InKey,
    /// In a key, after a backslash.
    KeyEscape,
    BeforeColon,
    BeforeValue,
    InString,
    StringEscape,
    /// In a number or a word.
    InScalar,
    /// In an array or object, so deep.
    Nested(u32),
    NestedString(u32),
    NestedEscape(u32),
    AfterValue,
    Done,
}

/// Why the text cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It is no JSON object.
    NotAnObject,
    /// It is no JSON from this byte on.
    Syntax(usize),
    /// A member is given twice.
    Twice(&'static str),
    /// What must be known as a whole is longer than anybody needs.
    TooLong(&'static str),
}

impl<const N: usize> Scan<N> {
    /// Looks for members of these names.
    pub(crate) fn new(keys: &'static [&'static str; N]) -> Scan<N> {
        debug_assert!(keys.iter().all(|key| key.len() * 6 <= MAX_KEY), "one of {keys:?} is too long");
        Scan {
            keys,
            spans: [const { None }; N],
            state: State::Start,
            offset: 0,
            key: Vec::new(),
            member: None,
            end: None,
            trouble: None,
        }
    }

    /// Reads on.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() && self.trouble.is_none() {
            at = self.step(bytes, at);
        }
        self.offset += bytes.len();
    }

    /// Where the member's value lies in what was fed, once it is whole.
    pub(crate) fn span(&self, key: &str) -> Option<Range<usize>> {
        let position = self.keys.iter().position(|known| *known == key)?;
        self.spans[position].clone()
    }

    /// The member whose value has begun and is not whole, and where it begins.
    pub(crate) fn open(&self) -> Option<(&'static str, usize)> {
        let (position, start) = self.member.filter(|_| self.state != State::BeforeValue)?;
        Some((self.keys[position], start))
    }

    /// As [`Scan::span`], and where that much of a value lies of which only a part was fed.
    pub(crate) fn span_so_far(&self, key: &str) -> Option<Range<usize>> {
        let open = || self.open().filter(|(open, _)| *open == key).map(|(_, start)| start..self.offset);
        self.span(key).or_else(open)
    }

    /// Whether the object is whole.
    pub(crate) fn is_done(&self) -> bool {
        self.end.is_some()
    }

    /// Where the brace is that closes the object, once it is whole.
    pub(crate) fn end(&self) -> Option<usize> {
        self.end
    }

    /// What is wrong, as far as that is known.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// Reads at least one byte and returns where to go on.
    fn step(&mut self, bytes: &[u8], at: usize) -> usize {
        let byte = bytes[at];
        let blank = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match self.state {
            State::Start | State::BeforeKey | State::BeforeColon | State::BeforeValue | State::AfterValue
                if blank => {}
            State::Done if blank => {}
            State::Start => match byte {
                b'{' => self.state = State::BeforeKey,
                _ => self.trouble = Some(Trouble::NotAnObject),
            },
            State::BeforeKey => match byte {
                b'"' => {
                    self.key.clear();
                    self.state = State::InKey;
                }
                b'}' => self.after(byte, at),
                _ => self.syntax(at),
            },
            State::InKey => match byte {
                b'"' => self.state = State::BeforeColon,
                _ => {
                    if byte == b'\\' {
                        self.state = State::KeyEscape;
                    }
                    self.push_key(byte);
                }
            },
            State::KeyEscape => {
                self.push_key(byte);
                self.state = State::InKey;
            }
            State::BeforeColon => match byte {
                b':' => {
                    self.member = self.known_key().map(|position| (position, 0));
                    self.state = State::BeforeValue;
                }
                _ => self.syntax(at),
            },
            State::BeforeValue => {
                if let Some((_, start)) = &mut self.member {
                    *start = self.offset + at;
                }
                self.state = match byte {
                    b'"' => State::InString,
                    b'{' | b'[' => State::Nested(1),
                    b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => State::InScalar,
                    _ => {
                        self.syntax(at);
                        State::BeforeValue
                    }
                };
            }
            State::InString => match memchr2(b'"', b'\\', &bytes[at..]) {
                Some(skipped) if bytes[at + skipped] == b'"' => {
                    self.end_value(at + skipped + 1);
                    self.state = State::AfterValue;
                    return at + skipped + 1;
                }
                Some(skipped) => {
                    self.state = State::StringEscape;
                    return at + skipped + 1;
                }
                None => return bytes.len(),
            },
            State::StringEscape => self.state = State::InString,
            State::InScalar => match byte {
                b',' | b'}' => {
                    self.end_value(at);
                    self.after(byte, at);
                }
                _ if blank => {
                    self.end_value(at);
                    self.state = State::AfterValue;
                }
                b'"' | b'{' | b'[' | b']' | b':' => self.syntax(at),
                _ => {}
            },
            State::Nested(depth) => match byte {
                b'"' => self.state = State::NestedString(depth),
                b'{' | b'[' => self.state = State::Nested(depth + 1),
                b'}' | b']' if depth == 1 => {
                    self.end_value(at + 1);
                    self.state = State::AfterValue;
                }
                b'}' | b']' => self.state = State::Nested(depth - 1),
                _ => {}
            },
            State::NestedString(depth) => match memchr2(b'"', b'\\', &bytes[at..]) {
                Some(skipped) => {
                    let quote = bytes[at + skipped] == b'"';
                    self.state = if quote { State::Nested(depth) } else { State::NestedEscape(depth) };
                    return at + skipped + 1;
                }
                None => return bytes.len(),
            },
            State::NestedEscape(depth) => self.state = State::NestedString(depth),
            State::AfterValue => match byte {
                b',' | b'}' => self.after(byte, at),
                _ => self.syntax(at),
            },
            State::Done => self.syntax(at),
        }
        at + 1
    }

    /// After a member, or an object without any: a comma or the closing brace.
    fn after(&mut self, byte: u8, at: usize) {
        self.state = if byte == b',' { State::BeforeKey } else { State::Done };
        self.end = (byte == b'}').then_some(self.offset + at);
    }

    fn push_key(&mut self, byte: u8) {
        // One more than is compared tells that it is too long.
        if self.key.len() <= MAX_KEY {
            self.key.push(byte);
        }
    }

    fn known_key(&self) -> Option<usize> {
        if !self.key.contains(&b'\\') {
            return self.keys.iter().position(|known| known.as_bytes() == self.key);
        }
        let quoted = [&b"\""[..], &self.key, b"\""].concat();
        let key: String = serde_json::from_slice(&quoted).ok()?;
        self.keys.iter().position(|known| *known == key)
    }

    fn end_value(&mut self, end: usize) {
        if let Some((position, start)) = self.member.take() {
            if self.spans[position].is_some() {
                self.trouble = Some(Trouble::Twice(self.keys[position]));
            } else {
                self.spans[position] = Some(start..self.offset + end);
            }
        }
    }

    fn syntax(&mut self, at: usize) {
        self.trouble = Some(Trouble::Syntax(self.offset + at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static KEYS: [&str; 3] = ["model", "messages", "stream"];

    fn scan(text: &str) -> Scan<3> {
        let mut scan = Scan::new(&KEYS);
        scan.feed(text.as_bytes());
        scan
    }

    fn found<'a>(text: &'a str, key: &str) -> Option<&'a str> {
        scan(text).span(key).map(|span| &text[span])
    }

    #[test]
    fn finds_members_of_the_outermost_object_only() {
        let text = r#" {"messages":[{"role":"user","model":"no","content":"\"model\":\"no\" }]"}], "stream" : true ,"model": "yes"} "#;
        assert_eq!(found(text, "model"), Some("\"yes\""));
        assert_eq!(found(text, "stream"), Some("true"));
        assert!(found(text, "messages").unwrap().ends_with("}]"));
        assert!(scan(text).is_done());
    }

    #[test]
    fn a_key_with_escapes_is_the_key_that_it_means() {
        assert_eq!(found(r#"{"mod\u0065l":"x"}"#, "model"), Some("\"x\""));
        assert_eq!(scan(r#"{"model":"a","mod\u0065l":"b"}"#).trouble(), Some(Trouble::Twice("model")));
    }

    #[test]
    fn how_the_text_is_cut_does_not_matter() {
        let text = r#"{"a":[1,{"b":"\\\""}],"stream":false,"model":"m\"x","messages":[["]"]]}"#;
        for cut in 0..text.len() {
            for second in cut..text.len() {
                let mut scan = Scan::new(&KEYS);
                for piece in [&text[..cut], &text[cut..second], &text[second..]] {
                    scan.feed(piece.as_bytes());
                }
                assert_eq!(scan.trouble(), None, "{cut} {second}");
                assert!(scan.is_done());
                assert_eq!(&text[scan.span("model").unwrap()], r#""m\"x""#);
                assert_eq!(&text[scan.span("messages").unwrap()], r#"[["]"]]"#);
                assert_eq!(&text[scan.span("stream").unwrap()], "false");
            }
        }
    }

    #[test]
    fn a_value_that_has_begun_is_known_as_far_as_it_is_there() {
        let text = r#"{"model":"m","messages":["a","b"]}"#;
        let at = |fed: usize| scan(&text[..fed]);
        let colon = text.find("[").unwrap();
        assert_eq!((at(colon).open(), at(colon).span_so_far("messages")), (None, None));
        assert_eq!(at(colon + 4).open(), Some(("messages", colon)));
        assert_eq!(at(colon + 4).span_so_far("messages"), Some(colon..colon + 4));
        assert_eq!(at(colon + 4).span_so_far("model"), at(colon + 4).span("model"));
        assert_eq!((at(text.len()).open(), at(text.len()).end()), (None, Some(text.len() - 1)));
        assert_eq!(scan("{ } ").end(), Some(2));
    }

    #[test]
    fn says_where_it_stops_being_json() {
        let trouble = |text| scan(text).trouble();
        assert_eq!(trouble("[1]"), Some(Trouble::NotAnObject));
        assert_eq!(trouble("{\"a\" 1}"), Some(Trouble::Syntax(5)));
        assert_eq!(trouble("{\"a\":1} x"), Some(Trouble::Syntax(8)));
        assert_eq!(trouble("{\"a\":1 2}"), Some(Trouble::Syntax(7)));
        assert_eq!(trouble("{a:1}"), Some(Trouble::Syntax(1)));
        assert_eq!(trouble("{}"), None);
        assert!(!scan("{\"a\":1").is_done());
    }
}
