//! Hand-written twins of the regular expressions that nearly all byte-level tokenizers split words with.
//!
//! A general engine with look-ahead costs milliseconds to compile and backtracks on long runs; these scan
//! forward in linear time. Tests hold them equal to the expressions.

use super::classes::{Classes, LETTER, LOWERISH, MARK, NUMBER, SPACE, UPPERISH};

/// A known splitting expression. All cover their input: every character is in exactly one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// GPT-2, SmolLM, StarCoder.
    Gpt2,
    /// `cl100k`: Llama 3 (`digits` 3), Qwen 2 and 3 (`digits` 1).
    Cl100k { digits: usize, marks: Marks },
    /// `o200k`: GPT-4o and Llama 4 (contractions, `digits` 3), Tekken (none, `digits` 1).
    O200k { digits: usize, contractions: Contractions },
}

/// Whether combining marks are part of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    Apart,
    InWords,
}

/// Whether `'s`, `'re`, … stay with the word before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contractions {
    Apart,
    InWords,
}

pub(crate) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(crate) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(crate) const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(crate) const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(crate) const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The expressions and their twins.
pub(crate) const KNOWN: [(&str, Pattern); 6] = [
    (GPT2, Pattern::Gpt2),
    (LLAMA3, Pattern::Cl100k { digits: 3, marks: Marks::Apart }),
    (QWEN2, Pattern::Cl100k { digits: 1, marks: Marks::Apart }),
    (QWEN35, Pattern::Cl100k { digits: 1, marks: Marks::InWords }),
    (GPT4O, Pattern::O200k { digits: 3, contractions: Contractions::InWords }),
    (TEKKEN, Pattern::O200k { digits: 1, contractions: Contractions::Apart }),
];

impl Pattern {
    /// The twin of `regex`, when there is one.
    pub(crate) fn of_regex(regex: &str) -> Option<Pattern> {
        KNOWN.iter().find(|(known, _)| *known == regex).map(|(_, pattern)| *pattern)
    }

    /// Calls `sink` with each piece of `text`, in order.
    pub(crate) fn split<'t>(self, text: &'t str, mut sink: impl FnMut(&'t str)) {
        let scan = Scan { text, classes: Classes::get() };
        let mut at = 0;
        while at < text.len() {
            let end = match self {
                Pattern::Gpt2 => scan.gpt2(at),
                Pattern::Cl100k { digits, marks } => {
                    let word = if marks == Marks::InWords { LETTER | MARK } else { LETTER };
                    scan.cl100k(at, digits, word)
                }
                Pattern::O200k { digits, contractions } => scan.o200k(at, digits, contractions),
            };
            sink(&text[at..end]);
            at = end;
        }
    }
}

struct Scan<'t> {
    text: &'t str,
    classes: Classes,
}

impl Scan<'_> {
    /// The character at `at`, its classes and the position after it.
    fn char(&self, at: usize) -> Option<(char, u8, usize)> {
        let c = self.text[at..].chars().next()?;
        Some((c, self.classes.of(c), at + c.len_utf8()))
    }

    /// The end of the run from `at` of at most `max` characters that satisfy `keep`.
    fn run(&self, mut at: usize, max: usize, keep: impl Fn(char, u8) -> bool) -> usize {
        for _ in 0..max {
            match self.char(at) {
                Some((c, class, next)) if keep(c, class) => at = next,
                _ => break,
            }
        }
        at
    }

    fn gpt2(&self, at: usize) -> usize {
        if let Some(end) = contraction(&self.text[at..], |c| c) {
            return at + end;
        }
        let start = if self.text.as_bytes()[at] == b' ' { at + 1 } else { at };
        let Some((_, class, _)) = self.char(start) else { return self.text.len() };
        if class & SPACE == 0 {
            let kind = class & (LETTER | NUMBER);
            return self
                .run(start, usize::MAX, |_, class| class & SPACE == 0 && class & (LETTER | NUMBER) == kind);
        }
        self.spaces(at)
    }

    /// `word`: classes that form words, `LETTER` with or without `MARK`.
    fn cl100k(&self, at: usize, digits: usize, word: u8) -> usize {
        if let Some(end) = contraction(&self.text[at..], fold) {
            return at + end;
        }
        let (first, class, after) = self.char(at).expect("`at` is before the end");
        let in_word = |_: char, class: u8| class & word != 0;
        let leads = !matches!(first, '\r' | '\n') && class & (LETTER | NUMBER) == 0;
        // The optional leading character is tried first, as a greedy `?` does.
        if leads {
            let end = self.run(after, usize::MAX, in_word);
            if end > after {
                return end;
            }
        }
        if class & word != 0 {
            return self.run(at, usize::MAX, in_word);
        }
        if class & NUMBER != 0 {
            return self.run(at, digits, |_, class| class & NUMBER != 0);
        }
        self.symbols(at, SPACE | NUMBER | word, |c| matches!(c, '\r' | '\n'))
            .unwrap_or_else(|| self.lines_or_spaces(at))
    }

    fn o200k(&self, at: usize, digits: usize, contractions: Contractions) -> usize {
        let (first, class, after) = self.char(at).expect("`at` is before the end");
        let leads = !matches!(first, '\r' | '\n') && class & (LETTER | NUMBER) == 0;
        let starts = [leads.then_some(after), Some(at)];
        let word = starts
            .iter()
            .flatten()
            .find_map(|&start| self.ends_lower(start))
            .or_else(|| starts.iter().flatten().find_map(|&start| self.starts_upper(start)));
        if let Some(end) = word {
            return match contractions {
                Contractions::InWords => end + contraction(&self.text[end..], fold).unwrap_or(0),
                Contractions::Apart => end,
            };
        }
        if class & NUMBER != 0 {
            return self.run(at, digits, |_, class| class & NUMBER != 0);
        }
        self.symbols(at, SPACE | LETTER | NUMBER, |c| matches!(c, '\r' | '\n' | '/'))
            .unwrap_or_else(|| self.lines_or_spaces(at))
    }

    /// `[upperish]*[lowerish]+`: caseless characters are both, so the first run gives back what it must.
    fn ends_lower(&self, start: usize) -> Option<usize> {
        let mut at = start;
        let mut last_both = None;
        while let Some((_, class, next)) = self.char(at) {
            if class & UPPERISH == 0 {
                break;
            }
            if class & LOWERISH != 0 {
                last_both = Some(next);
            }
            at = next;
        }
        let end = self.run(at, usize::MAX, |_, class| class & LOWERISH != 0);
        if end > at { Some(end) } else { last_both }
    }

    /// `[upperish]+[lowerish]*`
    fn starts_upper(&self, start: usize) -> Option<usize> {
        let upper = self.run(start, usize::MAX, |_, class| class & UPPERISH != 0);
        (upper > start).then(|| self.run(upper, usize::MAX, |_, class| class & LOWERISH != 0))
    }

    /// ` ?[^not]+[tail]*`
    fn symbols(&self, at: usize, not: u8, tail: impl Fn(char) -> bool) -> Option<usize> {
        let start = if self.text.as_bytes()[at] == b' ' { at + 1 } else { at };
        let end = self.run(start, usize::MAX, |_, class| class & not == 0);
        (end > start).then(|| self.run(end, usize::MAX, |c, _| tail(c)))
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+`
    fn lines_or_spaces(&self, at: usize) -> usize {
        let end = self.run(at, usize::MAX, |_, class| class & SPACE != 0);
        match self.text[at..end].rfind(['\r', '\n']) {
            Some(newline) => at + newline + 1,
            None => self.spaces(at),
        }
    }

    /// `\s+(?!\S)|\s+`: the last space before a word is left for the word.
    fn spaces(&self, at: usize) -> usize {
        let end = self.run(at, usize::MAX, |_, class| class & SPACE != 0);
        if end == self.text.len() {
            return end;
        }
        let last = self.text[at..end].chars().next_back().map_or(0, char::len_utf8);
        if end - last > at {
            end - last
        } else if end > at {
            end
        } else {
            // A character that no alternative takes would loop for ever; it becomes its own piece.
            self.char(at).map_or(self.text.len(), |(_, _, next)| next)
        }
    }
}

/// Length of `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` or `'d` at the start of `text`, letters compared after `fold`.
fn contraction(text: &str, fold: impl Fn(char) -> char) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    let mut chars = rest.chars();
    let first = chars.next()?;
    let one = 1 + first.len_utf8();
    match fold(first) {
        's' | 't' | 'm' | 'd' => Some(one),
        'r' | 'v' => chars.next().filter(|&c| fold(c) == 'e').map(|c| one + c.len_utf8()),
        'l' => chars.next().filter(|&c| fold(c) == 'l').map(|c| one + c.len_utf8()),
        _ => None,
    }
}

/// Simple case folding as far as the letters of contractions need it: the long s folds to s.
fn fold(c: char) -> char {
    if c == 'ſ' { 's' } else { c.to_ascii_lowercase() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_regex<'t>(regex: &fancy_regex::Regex, text: &'t str) -> Vec<&'t str> {
        regex.find_iter(text).map(|found| found.unwrap().as_str()).collect()
    }

    fn by_hand(pattern: Pattern, text: &str) -> Vec<&str> {
        let mut pieces = Vec::new();
        pattern.split(text, |piece| pieces.push(piece));
        pieces
    }

    #[test]
    fn hand_written_splitters_equal_their_expressions() {
        let regexes = KNOWN.map(|(regex, pattern)| (fancy_regex::Regex::new(regex).unwrap(), pattern));
        let alphabet = "[ \t\r\n\u{a0}\u{3000}aAzZsStTrReEvVmMlLdDſK'’\"!/._\\-0-9²½٣漢字한글مرحباनमस्ते\u{301}\u{300}Δδǅʰªß😀\u{200d}\u{fe0f}👩]{0,40}";
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(4000));
        runner
            .run(&alphabet, |text| {
                for (regex, pattern) in &regexes {
                    prop_assert_eq!(by_hand(*pattern, &text), by_regex(regex, &text), "{:?}", pattern);
                }
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn megabytes_of_one_character_split_in_linear_time() {
        for c in ["a", "A", " ", "\n", "!", "1", "漢", "\u{301}", "'"] {
            let text = c.repeat(1 << 20);
            for (_, pattern) in KNOWN {
                let total: usize = by_hand(pattern, &text).iter().map(|piece| piece.len()).sum();
                assert_eq!(total, text.len());
            }
        }
    }
}
