//! The steps between text and words: normalisers and pre-tokenisers as data.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;

use super::classes::{Classes, PUNCTUATION, SPACE, WORD};
use super::split::Pattern;

/// A rewriting of text before it is split.
#[derive(Debug)]
pub(crate) enum Normalizer {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Lowercase,
    /// Removes combining marks.
    StripAccents,
    /// Puts text before any that is not empty.
    Prepend(String),
    Replace(Needle, String),
    Strip {
        left: bool,
        right: bool,
    },
}

/// What to look for.
#[derive(Debug)]
pub(crate) enum Needle {
    Text(String),
    Regex(Box<fancy_regex::Regex>),
}

impl Needle {
    /// Byte ranges of the matches, in order and not overlapping.
    ///
    /// A regular expression that exceeds its backtracking budget finds nothing more: the rest of the section
    /// then stays in one piece, which bounds the time without refusing the text.
    fn find(&self, text: &str) -> Vec<(usize, usize)> {
        match self {
            Needle::Text(needle) if needle.is_empty() => Vec::new(),
            Needle::Text(needle) => {
                text.match_indices(needle.as_str()).map(|(at, found)| (at, at + found.len())).collect()
            }
            Needle::Regex(regex) => regex
                .find_iter(text)
                .map_while(Result::ok)
                .map(|found| (found.start(), found.end()))
                .collect(),
        }
    }
}

impl Normalizer {
    /// `text` rewritten; borrowed when nothing changes cheaply.
    pub(crate) fn apply<'t>(&self, text: Cow<'t, str>) -> Cow<'t, str> {
        match self {
            Normalizer::Nfc if unicode_normalization::is_nfc(&text) => text,
            Normalizer::Nfc => Cow::Owned(text.nfc().collect()),
            Normalizer::Nfd => Cow::Owned(text.nfd().collect()),
            Normalizer::Nfkc if unicode_normalization::is_nfkc(&text) => text,
            Normalizer::Nfkc => Cow::Owned(text.nfkc().collect()),
            Normalizer::Nfkd => Cow::Owned(text.nfkd().collect()),
            // Character by character, as the reference does: final sigma gets no special form.
            Normalizer::Lowercase => Cow::Owned(text.chars().flat_map(char::to_lowercase).collect()),
            Normalizer::StripAccents => Cow::Owned(
                text.chars().filter(|&c| !unicode_normalization::char::is_combining_mark(c)).collect(),
            ),
            Normalizer::Prepend(_) if text.is_empty() => text,
            Normalizer::Prepend(prefix) => Cow::Owned(format!("{prefix}{text}")),
            Normalizer::Replace(Needle::Text(from), _) if from.is_empty() || !text.contains(from) => text,
            Normalizer::Replace(Needle::Text(from), to) => Cow::Owned(text.replace(from, to)),
            Normalizer::Replace(needle, to) => {
                let mut out = String::with_capacity(text.len());
                let mut done = 0;
                for (start, end) in needle.find(&text) {
                    out.push_str(&text[done..start]);
                    out.push_str(to);
                    done = end;
                }
                out.push_str(&text[done..]);
                Cow::Owned(out)
            }
            Normalizer::Strip { left, right } => {
                let space = |c: char| Classes::get().of(c) & SPACE != 0;
                let mut kept: &str = &text;
                if *left {
                    kept = kept.trim_start_matches(space);
                }
                if *right {
                    kept = kept.trim_end_matches(space);
                }
                if kept.len() == text.len() { text } else { Cow::Owned(kept.to_owned()) }
            }
        }
    }
}

/// A splitting of text into pieces.
#[derive(Debug)]
pub(crate) enum Step {
    Known(Pattern),
    Split {
        needle: Needle,
        behavior: Behavior,
        invert: bool,
    },
    Chars {
        class: CharClass,
        behavior: Behavior,
    },
    /// Spaces become `replacement`; pieces begin at it when `split`.
    Metaspace {
        replacement: char,
        prepend: Prepend,
        split: bool,
    },
    /// A space before text that does not begin with one.
    AddPrefixSpace,
}

/// What happens to the text that a splitter finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behavior {
    Removed,
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

/// Characters to split at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CharClass {
    Numeric,
    Space,
    Punctuation,
    /// Boundaries between word and other characters (`\w+|[^\w\s]+`).
    Words,
    One(char),
}

/// When a Metaspace step puts its replacement before the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prepend {
    Never,
    Always,
    /// Only at the very beginning of the input.
    First,
}

/// Runs `text` through `steps` and calls `sink` with each resulting piece. `first`: the text begins the input.
pub(crate) fn run(steps: &[Step], text: &str, first: bool, sink: &mut dyn FnMut(&str)) {
    let Some((step, rest)) = steps.split_first() else {
        if !text.is_empty() {
            sink(text);
        }
        return;
    };
    let mut pass = |piece: &str, first: bool| run(rest, piece, first, sink);
    match step {
        Step::Known(pattern) => {
            let mut first = first;
            pattern.split(text, |piece| pass(piece, std::mem::take(&mut first)));
        }
        Step::Split { needle, behavior, invert } => {
            let found = needle.find(text);
            split_at(text, first, &found, *behavior, *invert, &mut pass);
        }
        Step::Chars { class, behavior } => {
            // The word finder reports the pieces themselves, the others report what separates them.
            split_at(text, first, &class.find(text), *behavior, *class == CharClass::Words, &mut pass);
        }
        Step::Metaspace { replacement, prepend, split } => {
            let mut mark = [0; 4];
            let mark: &str = replacement.encode_utf8(&mut mark);
            let mut changed = text.replace(' ', mark);
            let wanted = match prepend {
                Prepend::Never => false,
                Prepend::Always => true,
                Prepend::First => first,
            };
            if wanted && !changed.starts_with(mark) {
                changed.insert_str(0, mark);
            }
            if *split {
                let found: Vec<_> = changed.match_indices(mark).map(|(at, m)| (at, at + m.len())).collect();
                split_at(&changed, first, &found, Behavior::MergedWithNext, false, &mut pass);
            } else {
                pass(&changed, first);
            }
        }
        Step::AddPrefixSpace if !text.starts_with(' ') => pass(&format!(" {text}"), first),
        Step::AddPrefixSpace => pass(text, first),
    }
}

impl CharClass {
    fn find(self, text: &str) -> Vec<(usize, usize)> {
        let classes = Classes::get();
        let kind = |c: char| match self {
            CharClass::Numeric => c.is_numeric(),
            CharClass::Space => classes.of(c) & SPACE != 0,
            CharClass::Punctuation => c.is_ascii_punctuation() || classes.of(c) & PUNCTUATION != 0,
            CharClass::One(one) => c == one,
            CharClass::Words => classes.of(c) & WORD != 0,
        };
        if self == CharClass::Words {
            // One range for each run of word characters and of characters that are neither word nor space.
            let group = |c: char| (classes.of(c) & SPACE == 0).then(|| kind(c));
            let mut runs: Vec<(usize, usize)> = Vec::new();
            let mut last = None;
            for (at, c) in text.char_indices() {
                let this = group(c);
                match runs.last_mut() {
                    Some(run) if this.is_some() && this == last => run.1 = at + c.len_utf8(),
                    _ if this.is_some() => runs.push((at, at + c.len_utf8())),
                    _ => {}
                }
                last = this;
            }
            return runs;
        }
        text.char_indices().filter(|&(_, c)| kind(c)).map(|(at, c)| (at, at + c.len_utf8())).collect()
    }
}

/// Cuts `text` at `found` and passes on what `behavior` leaves. With `invert`, what lies between the matches
/// counts as found.
fn split_at(
    text: &str,
    first: bool,
    found: &[(usize, usize)],
    behavior: Behavior,
    invert: bool,
    pass: &mut dyn FnMut(&str, bool),
) {
    // Alternating ranges that cover the text, each with whether it was found.
    let mut ranges = Vec::with_capacity(found.len() * 2 + 1);
    let mut done = 0;
    for &(start, end) in found {
        if start > done {
            ranges.push((done, start, invert));
        }
        if end > start {
            ranges.push((start, end, !invert));
        }
        done = done.max(end);
    }
    if done < text.len() {
        ranges.push((done, text.len(), invert));
    }
    let mut emit = |start: usize, end: usize| {
        if end > start {
            pass(&text[start..end], first && start == 0);
        }
    };
    match behavior {
        Behavior::Removed => {
            ranges.iter().filter(|range| !range.2).for_each(|&(start, end, _)| emit(start, end));
        }
        Behavior::Isolated => ranges.iter().for_each(|&(start, end, _)| emit(start, end)),
        Behavior::Contiguous => {
            for group in ranges.chunk_by(|a, b| a.2 == b.2) {
                emit(group[0].0, group[group.len() - 1].1);
            }
        }
        Behavior::MergedWithPrevious => {
            let mut start = 0;
            let mut open_found = true;
            for &(from, to, is_found) in &ranges {
                // A match joins the text before it, but not another match.
                if !is_found || open_found {
                    emit(start, from);
                    start = from;
                }
                open_found = is_found;
                if is_found {
                    emit(start, to);
                    start = to;
                }
            }
            emit(start, text.len());
        }
        Behavior::MergedWithNext => {
            let mut start = 0;
            for &(from, to, is_found) in &ranges {
                if is_found {
                    emit(start, from);
                    start = from;
                } else {
                    emit(start, to);
                    start = to;
                }
            }
            emit(start, text.len());
        }
    }
}
