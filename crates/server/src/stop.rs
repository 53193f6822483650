//! Finding stop strings in text that arrives piece by piece.
//!
//! Text is held back only as far as it could be the beginning of a stop string. Each stop string is followed by its
//! Knuth–Morris–Pratt automaton over bytes, so a piece costs time in proportion to its length, whatever the
//! stop strings look like.

use std::sync::Arc;

/// The stop strings of a request, for all of its choices.
#[derive(Clone)]
pub(crate) struct StopStrings(Arc<[Pattern]>);

impl StopStrings {
    /// `stops` are not empty strings.
    pub(crate) fn new(stops: &[String]) -> StopStrings {
        StopStrings(stops.iter().map(|stop| Pattern::new(stop.as_bytes())).collect())
    }
}

/// Watches one choice's text.
pub(crate) struct StopMatcher {
    stops: StopStrings,
    /// Bytes of each stop string that the text ends with.
    matched: Vec<usize>,
    /// Text that has not been let through yet.
    held: String,
    include: bool,
}

struct Pattern {
    bytes: Vec<u8>,
    /// `failure[i]`: length of the longest proper prefix of the pattern that ends its first `i` bytes.
    failure: Vec<usize>,
}

/// What became of a piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Text that may be shown.
    pub(crate) text: String,
    /// A stop string was found; `text` ends before it, or with it if it is to be included.
    pub(crate) stopped: bool,
}

impl StopMatcher {
    /// `include` keeps a found stop string in the text.
    pub(crate) fn new(stops: StopStrings, include: bool) -> StopMatcher {
        StopMatcher { matched: vec![0; stops.0.len()], stops, held: String::new(), include }
    }

    /// Adds text and lets through what cannot belong to a stop string any more.
    pub(crate) fn push(&mut self, text: &str) -> Passed {
        let offset = self.held.len();
        self.held.push_str(text);
        for (i, byte) in text.bytes().enumerate() {
            let end = offset + i + 1;
            let mut start = None;
            for (pattern, matched) in self.stops.0.iter().zip(&mut self.matched) {
                if pattern.advance(matched, byte) {
                    // Of stop strings that end here, the longest leaves the least behind.
                    let begin = end - pattern.bytes.len();
                    start = Some(start.map_or(begin, |other: usize| other.min(begin)));
                }
            }
            if let Some(start) = start {
                let cut = if self.include { end } else { start };
                self.held.truncate(cut);
                return Passed { text: std::mem::take(&mut self.held), stopped: true };
            }
        }
        // Both ends of a partial match are character boundaries: its beginning is a stop string's, its end the
        // text's.
        let hold = self.matched.iter().copied().max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - hold);
        Passed { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// Lets through text that is exempt from stopping (before `min_tokens`).
    pub(crate) fn pass(&mut self, text: &str) -> Passed {
        self.matched.fill(0);
        let mut all = std::mem::take(&mut self.held);
        all.push_str(text);
        Passed { text: all, stopped: false }
    }

    /// The text has ended: what was held back is no stop string.
    pub(crate) fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

impl Pattern {
    fn new(bytes: &[u8]) -> Pattern {
        let mut failure = vec![0; bytes.len() + 1];
        let mut k = 0;
        for i in 1..bytes.len() {
            while k > 0 && bytes[k] != bytes[i] {
                k = failure[k];
            }
            k += usize::from(bytes[k] == bytes[i]);
            failure[i + 1] = k;
        }
        Pattern { bytes: bytes.to_vec(), failure }
    }

    /// Takes one byte after `matched` bytes of the pattern; true when the pattern is complete.
    fn advance(&self, matched: &mut usize, byte: u8) -> bool {
        while *matched > 0 && self.bytes[*matched] != byte {
            *matched = self.failure[*matched];
        }
        *matched += usize::from(self.bytes[*matched] == byte);
        if *matched < self.bytes.len() {
            return false;
        }
        *matched = self.failure[*matched];
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces in, pieces out, and whether it stopped.
    fn run(stops: &[&str], include: bool, pieces: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut matcher = StopMatcher::new(StopStrings::new(&stops), include);
        let mut out = Vec::new();
        for piece in pieces {
            let passed = matcher.push(piece);
            out.push(passed.text);
            if passed.stopped {
                return (out, true);
            }
        }
        out.push(matcher.flush());
        (out, false)
    }

    #[test]
    fn text_before_a_stop_string_passes_and_the_rest_does_not() {
        assert_eq!(run(&["END"], false, &["ab", "cENDd"]), (vec!["ab".into(), "c".into()], true));
        assert_eq!(run(&["END"], true, &["cENDd"]), (vec!["cEND".into()], true));
    }

    #[test]
    fn a_stop_string_over_several_pieces_never_shows() {
        let (out, stopped) = run(&["<end>"], false, &["a<", "en", "d", ">b"]);
        assert_eq!((out.concat().as_str(), stopped), ("a", true));
    }

    #[test]
    fn choices_share_stop_strings_and_not_what_they_have_seen_of_them() {
        let stops = StopStrings::new(&["END".to_owned()]);
        let [mut one, mut other] = [0, 1].map(|_| StopMatcher::new(stops.clone(), false));
        assert_eq!(Arc::strong_count(&stops.0), 3);
        assert_eq!(one.push("EN").text, "");
        assert_eq!(other.push("D").text, "D");
        assert!(one.push("D").stopped);
    }

    #[test]
    fn what_only_looks_like_a_stop_string_comes_after_all() {
        let (out, stopped) = run(&["aab"], false, &["a", "a", "a", "c"]);
        assert_eq!(out, ["", "", "a", "aac", ""]);
        assert!(!stopped);
        assert_eq!(run(&["xy"], false, &["zx"]), (vec!["z".into(), "x".into()], false));
    }

    #[test]
    fn the_first_stop_string_to_end_wins_and_the_longest_of_those() {
        assert_eq!(run(&["long stop", "op"], false, &["a long stop"]).0, ["a "]);
        assert_eq!(run(&["b", "abc"], false, &["xabc"]).0, ["xa"]);
    }

    #[test]
    fn characters_of_several_bytes_stay_whole() {
        // Both begin with the same first byte.
        assert_eq!(run(&["é"], false, &["aè", "è", "é"]), (vec!["aè".into(), "è".into(), "".into()], true));
        assert_eq!(run(&["日本"], false, &["日", "日", "本"]).0.concat(), "日");
    }

    #[test]
    fn pieces_agree_with_a_search_in_the_whole() {
        let alphabet = ["a", "b", "é"];
        for case in 0..3usize.pow(8) {
            let text: Vec<&str> = (0..8).map(|i| alphabet[case / 3usize.pow(i) % 3]).collect();
            for stops in [&["aba"][..], &["ab", "bé"], &["aaa", "éé", "b"], &["abab", "bab"]] {
                let whole = text.concat();
                let ends = stops.iter().filter_map(|stop| whole.find(stop).map(|at| (at + stop.len(), at)));
                let expected = ends.min().map_or(whole.as_str(), |(_, at)| &whole[..at]);
                let (out, _) = run(stops, false, &text);
                assert_eq!(out.concat(), expected, "{whole} {stops:?}");
            }
        }
    }
}
