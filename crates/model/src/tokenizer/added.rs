//! Added tokens: texts that become one token before anything else looks at them.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::classes::{Classes, SPACE, WORD};
use super::error::TokenizerError;

/// One added token.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) content: String,
    pub(crate) special: bool,
    /// Takes white space on its left with it.
    pub(crate) lstrip: bool,
    /// Takes white space on its right with it.
    pub(crate) rstrip: bool,
    /// Matches only between non-word characters.
    pub(crate) single_word: bool,
}

/// A section of text: a token found in it, or what lies between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section<'t> {
    /// Plain text and its byte position in the whole.
    Text(&'t str, usize),
    Token(u32),
}

/// Finds added tokens, leftmost first and of those the longest, in linear time.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    automaton: Option<AhoCorasick>,
    tokens: Vec<AddedToken>,
}

impl Matcher {
    pub(crate) fn new(tokens: Vec<AddedToken>) -> Result<Matcher, TokenizerError> {
        let tokens: Vec<_> = tokens.into_iter().filter(|token| !token.content.is_empty()).collect();
        if tokens.is_empty() {
            return Ok(Matcher::default());
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(tokens.iter().map(|token| &token.content))
            .map_err(|source| TokenizerError::AddedTokens {
                count: tokens.len(),
                source: Box::new(source),
            })?;
        Ok(Matcher { automaton: Some(automaton), tokens })
    }

    /// Splits `text` and calls `sink` with each section in order; empty text is left out. Special tokens stay
    /// text unless `parse_special`.
    pub(crate) fn split<'t>(&self, text: &'t str, parse_special: bool, mut sink: impl FnMut(Section<'t>)) {
        let mut done = 0;
        if let Some(automaton) = &self.automaton {
            for found in automaton.find_iter(text) {
                let token = &self.tokens[found.pattern().as_usize()];
                let (mut start, mut end) = (found.start(), found.end());
                if start < done || (token.special && !parse_special) {
                    continue;
                }
                if token.single_word && !stands_alone(&text[..start], &text[end..]) {
                    continue;
                }
                if token.lstrip {
                    start = done + trim_end(&text[done..start]).len();
                }
                if token.rstrip {
                    end = text.len() - trim_start(&text[end..]).len();
                }
                if start > done {
                    sink(Section::Text(&text[done..start], done));
                }
                sink(Section::Token(token.id));
                done = end;
            }
        }
        if done < text.len() {
            sink(Section::Text(&text[done..], done));
        }
    }
}

fn trim_end(text: &str) -> &str {
    text.trim_end_matches(|c| Classes::get().of(c) & SPACE != 0)
}

fn trim_start(text: &str) -> &str {
    text.trim_start_matches(|c| Classes::get().of(c) & SPACE != 0)
}

fn stands_alone(before: &str, after: &str) -> bool {
    let word = |c: char| Classes::get().of(c) & WORD != 0;
    !before.chars().next_back().is_some_and(word) && !after.chars().next().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(tokens: &[AddedToken], text: &str, parse_special: bool) -> String {
        let matcher = Matcher::new(tokens.to_vec()).unwrap();
        let mut out = String::new();
        matcher.split(text, parse_special, |section| match section {
            Section::Text(text, at) => out.push_str(&format!("{text:?}@{at} ")),
            Section::Token(id) => out.push_str(&format!("#{id} ")),
        });
        out
    }

    fn token(id: u32, content: &str) -> AddedToken {
        AddedToken { id, content: content.into(), ..AddedToken::default() }
    }

    #[test]
    fn the_longest_of_the_leftmost_tokens_is_taken() {
        let tokens = [token(1, "<a>"), token(2, "<a><b>"), token(3, "<b>")];
        assert_eq!(split(&tokens, "x<a><b><a>", true), "\"x\"@0 #2 #1 ");
    }

    #[test]
    fn special_tokens_in_text_stay_text_unless_asked_for() {
        let tokens = [AddedToken { special: true, ..token(1, "<s>") }, token(2, "<u>")];
        assert_eq!(split(&tokens, "<s><u>", false), "\"<s>\"@0 #2 ");
        assert_eq!(split(&tokens, "<s><u>", true), "#1 #2 ");
    }

    #[test]
    fn stripping_tokens_take_white_space_with_them() {
        let tokens = [AddedToken { lstrip: true, rstrip: true, ..token(1, "<m>") }];
        assert_eq!(split(&tokens, "a \u{3000}<m>\n <m> b", true), "\"a\"@0 #1 #1 \"b\"@14 ");
    }

    #[test]
    fn single_words_do_not_match_inside_words() {
        let tokens = [AddedToken { single_word: true, ..token(1, "cat") }];
        assert_eq!(split(&tokens, "cat concat cat.", true), "#1 \" concat \"@3 #1 \".\"@14 ");
    }
}
