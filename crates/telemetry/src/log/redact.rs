//! What is taken out of log lines, wherever the text came from: keys, tokens, passwords and signatures of URLs.
//!
//! Nothing of ours logs them. Errors of others quote URLs and headers, and a line is read by more people than a Secret. Names that tell a
//! secret's kind stay (`wk-***`), because they help and open nothing.

use std::borrow::Cow;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, Input, MatchKind};

const MARK: &str = "***";
/// A key shorter than this is none: names of pods and flags begin like keys too.
const LEAST_KEY: usize = 16;
/// "bearer token" in a sentence is not one.
const LEAST_BEARER: usize = 6;

/// What the text after a pattern has to look like, and how much of it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// A header, as `Name: value` or as `"name": "value"`: the whole value.
    Header,
    /// A scheme of `Authorization` before its credentials.
    Scheme,
    /// The beginning of keys of one kind.
    Key,
    /// The beginning of a signed token: three parts with dots between.
    Jwt,
    /// `name=` in a URL, a form or a command line.
    Parameter,
    /// The same, but too common a word anywhere but in a query.
    OfQuery,
    /// The end of a URL's scheme, before a user and a password.
    User,
}

/// In lower case; found in any.
const PATTERNS: &[(&str, Rule)] = &[
    ("authorization", Rule::Header),
    ("x-api-key", Rule::Header),
    ("cookie", Rule::Header),
    ("bearer ", Rule::Scheme),
    ("wk-", Rule::Key),
    ("sk-", Rule::Key),
    ("hf_", Rule::Key),
    ("nvapi-", Rule::Key),
    ("eyj", Rule::Jwt),
    ("x-amz-signature=", Rule::Parameter),
    ("x-amz-credential=", Rule::Parameter),
    ("x-amz-security-token=", Rule::Parameter),
    ("x-goog-signature=", Rule::Parameter),
    ("x-goog-credential=", Rule::Parameter),
    ("signature=", Rule::Parameter),
    ("sig=", Rule::Parameter),
    ("token=", Rule::Parameter),
    ("api_key=", Rule::Parameter),
    ("api-key=", Rule::Parameter),
    ("apikey=", Rule::Parameter),
    ("password=", Rule::Parameter),
    ("secret=", Rule::Parameter),
    ("key=", Rule::OfQuery),
    ("://", Rule::User),
];

static FINDER: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::LeftmostLongest)
        .build(PATTERNS.iter().map(|(pattern, _)| pattern))
        .expect("a few short patterns fit an automaton")
});

/// The text without secrets; itself where there are none. What is redacted stays as it is when it is redacted again.
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut cleaned = String::new();
    // What of the text is in `cleaned`, and where to look on.
    let (mut copied, mut from) = (0, 0);
    while let Some(found) = FINDER.find(Input::new(text).span(from..text.len())) {
        let (_, rule) = PATTERNS[found.pattern().as_usize()];
        match secret(rule, &text[..found.start()], &text[found.end()..]) {
            Some((skip, length)) if &text[found.end() + skip..][..length] != MARK => {
                let start = found.end() + skip;
                cleaned.push_str(&text[copied..start]);
                cleaned.push_str(MARK);
                copied = start + length;
                from = copied;
            }
            Some((skip, length)) => from = found.end() + skip + length,
            // A pattern is ASCII, so the next byte begins a character.
            None => from = found.start() + 1,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    cleaned.push_str(&text[copied..]);
    Cow::Owned(cleaned)
}

/// Where the secret begins in `after`, and its length, both in bytes.
fn secret(rule: Rule, before: &str, after: &str) -> Option<(usize, usize)> {
    let previous = before.chars().next_back();
    let begins_word = !previous.is_some_and(char::is_alphanumeric);
    match rule {
        Rule::Header => {
            let value = after.trim_start_matches(['"', '\'', '\\', ' ', ':', '=']);
            let skip = after.len() - value.len();
            let length = until(value, |c| matches!(c, '"' | '\'' | '\\' | ',' | '\n' | '\r' | '}'));
            (after[..skip].contains([':', '=']) && length > 0).then_some((skip, length))
        }
        Rule::Scheme => {
            let length = until(after, |c| c.is_whitespace() || matches!(c, '"' | '\'' | '\\' | ','));
            (begins_word && length >= LEAST_BEARER).then_some((0, length))
        }
        Rule::Key => {
            let length = until(after, |c| !is_key(c));
            (begins_word && length >= LEAST_KEY).then_some((0, length))
        }
        Rule::Jwt => {
            let length = until(after, |c| !is_key(c) && c != '.');
            (begins_word && length >= LEAST_KEY && after[..length].contains('.')).then_some((0, length))
        }
        Rule::Parameter if begins_word => value(after),
        Rule::OfQuery if matches!(previous, Some('?' | '&')) => value(after),
        Rule::Parameter | Rule::OfQuery => None,
        Rule::User => {
            let length =
                until(after, |c| c.is_whitespace() || matches!(c, '@' | '/' | '?' | '#' | '"' | '<'));
            (length > 0 && after[length..].starts_with('@')).then_some((0, length))
        }
    }
}

/// The value of `name=value`, quoted or not.
fn value(after: &str) -> Option<(usize, usize)> {
    let skip = usize::from(after.starts_with(['"', '\'']));
    let ends = |c: char| {
        c.is_whitespace()
            || matches!(c, '&' | '"' | '\'' | '\\' | ')' | ']' | '}' | '<' | '>' | ',' | ';' | '#')
    };
    let length = until(&after[skip..], ends);
    (length > 0).then_some((skip, length))
}

fn until(text: &str, ends: impl Fn(char) -> bool) -> usize {
    text.find(ends).unwrap_or(text.len())
}

fn is_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "wk-BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcT7wv2A";

    #[track_caller]
    fn check(text: &str, wanted: &str) {
        assert_eq!(redact(text), wanted);
        assert_eq!(redact(wanted), wanted, "again");
    }

    #[test]
    fn keys_go_and_their_kind_stays() {
        check(&format!("no such key: {KEY}"), "no such key: wk-***");
        check("OPENAI_API_KEY is sk-proj-abcdefghijklmnop0123", "OPENAI_API_KEY is sk-***");
        check("hf_AbCdEfGhIjKlMnOpQrStUv, twice hf_AbCdEfGhIjKlMnOpQrStUv", "hf_***, twice hf_***");
        check("nvapi-0123456789abcdefXYZ", "nvapi-***");
        check("got eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl here", "got eyJ*** here");
    }

    #[test]
    fn headers_lose_their_values_in_every_form() {
        check("Authorization: Bearer abc", "Authorization: ***");
        check(
            r#"{"authorization": "Basic dXNlcjpwYXNz", "host": "a"}"#,
            r#"{"authorization": "***", "host": "a"}"#,
        );
        check(r#"{\"authorization\":\"Bearer abc\"}"#, r#"{\"authorization\":\"***\"}"#);
        check("x-api-key=abc, host=a", "x-api-key=***, host=a");
        check("set-cookie: session=abc", "set-cookie: ***");
        check("refused: Bearer abc.def-123 is unknown", "refused: Bearer *** is unknown");
    }

    #[test]
    fn signed_urls_keep_what_says_which_file_it_was() {
        check(
            "failed to get https://b.s3.amazonaws.com/m.gguf?X-Amz-Credential=AK%2F1&X-Amz-Expires=60&X-Amz-Signature=0fe1 403",
            "failed to get https://b.s3.amazonaws.com/m.gguf?X-Amz-Credential=***&X-Amz-Expires=60&X-Amz-Signature=*** 403",
        );
        check(
            "https://s.example/m?x-goog-signature=ab12&a=b",
            "https://s.example/m?x-goog-signature=***&a=b",
        );
        check("(https://c.blob/m?sv=1&sig=a%2Fb%3D)", "(https://c.blob/m?sv=1&sig=***)");
        check("https://e.example/x?access_token=abc#top", "https://e.example/x?access_token=***#top");
        check("https://e.example/x?key=abc&n=1", "https://e.example/x?key=***&n=1");
        check("https://user:pa55@registry.example/v2/", "https://***@registry.example/v2/");
        check("PASSWORD='abc' TOKEN=abc", "PASSWORD='***' TOKEN=***");
    }

    #[test]
    fn ordinary_lines_are_not_copied() {
        for text in [
            "the model server broke off its answer",
            "listening on http://127.0.0.1:8000/v1",
            "task-0123456789abcdef0123 of pod assistant-blue-7d9f8b5c4d-abcde, disk-0123456789abcdef01",
            "sk-short and bearer token, tokens=12, max_tokens=5, key=value, authorization failed for a",
            "monkey=1 design=2",
            "",
        ] {
            assert!(matches!(redact(text), Cow::Borrowed(same) if same == text), "{}", redact(text));
        }
    }

    proptest! {
        #[test]
        fn a_key_goes_wherever_it_is(before in "[ -~é]{0,20}[ :=\"(?&]", body in "[A-Za-z0-9_-]{43}", after in "[ \"),&\n]?[ -~é]{0,20}") {
            let text = format!("{before}wk-{body}{after}");
            prop_assert!(!redact(&text).contains(&body), "{}", redact(&text));
        }

        #[test]
        fn a_signature_goes_from_every_url(name in prop::sample::select(vec!["X-Amz-Signature", "X-Goog-Signature", "sig", "token"]), body in "[a-f0-9]{12,64}", rest in "[ -~]{0,20}") {
            let text = format!("GET https://h.example/p?a=1&{name}={body}&{rest}");
            prop_assert!(!redact(&text).contains(&body), "{}", redact(&text));
        }

        #[test]
        fn redacting_twice_changes_nothing_more(text in "(authorization|bearer |wk-|sk-|token=|key=|://|eyJ|[ -~é]){0,30}") {
            let once = redact(&text).into_owned();
            prop_assert_eq!(redact(&once).into_owned(), once);
        }
    }
}
