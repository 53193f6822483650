//! Byte-pair merging of one word: which token ids a piece of text becomes.
//!
//! A heap of candidate merges over a linked list of symbols: `n log n` in the word's length, because a
//! "word" may be a megabyte without spaces.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};

use super::vocab::{Kind, NONE, Vocab};

/// How text becomes initial symbols and which neighbours merge first.
#[derive(Debug)]
pub(crate) struct Bpe {
    pub(crate) symbols: Symbols,
    pub(crate) merges: Merges,
    /// A word that is itself a token is taken whole, whatever the merges say.
    pub(crate) ignore_merges: bool,
    /// Stands for what has no token.
    pub(crate) unknown: Option<u32>,
    /// Neighbouring unknowns become one.
    pub(crate) fuse_unknown: bool,
}

/// Initial symbols of a word.
#[derive(Debug)]
pub(crate) enum Symbols {
    /// Every byte, by its token id.
    Bytes(Box<[u32; 256]>),
    /// Every character; one without a token becomes its UTF-8 bytes' tokens when there are such.
    Chars { byte_fallback: Option<Box<[u32; 256]>> },
}

/// Order of merges.
#[derive(Debug)]
pub(crate) enum Merges {
    /// Pairs of ids by rank, lowest first.
    Ranks(PairTable),
    /// SentencePiece: any neighbours whose text together is a token, highest score first.
    Scores(Vec<f32>),
}

/// What a pair of neighbouring tokens merges into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Merge {
    pub(crate) rank: u32,
    pub(crate) id: u32,
}

/// Merges by pair of token ids.
#[derive(Debug)]
pub(crate) struct PairTable(HashMap<u64, Merge, PairHasher>);

impl PairTable {
    pub(crate) fn with_capacity(pairs: usize) -> PairTable {
        PairTable(HashMap::with_capacity_and_hasher(pairs, PairHasher::new()))
    }

    /// Of equal pairs the first stands.
    pub(crate) fn insert(&mut self, left: u32, right: u32, merge: Merge) {
        self.0.entry(key(left, right)).or_insert(merge);
    }

    fn get(&self, left: u32, right: u32) -> Option<Merge> {
        self.0.get(&key(left, right)).copied()
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// One multiplication per pair, seeded so that a hostile table cannot choose collisions.
#[derive(Clone, Debug)]
struct PairHasher {
    seed: u64,
}

impl PairHasher {
    fn new() -> PairHasher {
        PairHasher { seed: RandomState::new().hash_one(0u8) | 1 }
    }
}

impl BuildHasher for PairHasher {
    type Hasher = PairHash;

    fn build_hasher(&self) -> PairHash {
        PairHash { seed: self.seed, hash: 0 }
    }
}

struct PairHash {
    seed: u64,
    hash: u64,
}

impl Hasher for PairHash {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, n: u64) {
        let product = u128::from(self.hash ^ n ^ self.seed.rotate_left(32)) * u128::from(self.seed);
        self.hash = product as u64 ^ (product >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

/// A piece of the word: `len` bytes from `start`; `len` is 0 once merged into its left neighbour.
struct Symbol {
    start: usize,
    len: usize,
    left: usize,
    right: usize,
    id: u32,
}

/// No neighbour.
const END: usize = usize::MAX;

/// A possible merge of the symbol at `left` and its right neighbour, `len` bytes together. Ordered by
/// rank, then position, as the first field decides.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: usize,
    len: usize,
    id: u32,
}

/// Buffers reused from word to word.
#[derive(Default)]
pub(crate) struct Scratch {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

impl Bpe {
    /// Appends the ids of `word` to `out`.
    pub(crate) fn encode(&self, vocab: &Vocab, word: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        if word.is_empty() {
            return;
        }
        if self.ignore_merges
            && let Some(id) = vocab.id(word.as_bytes())
        {
            out.push(id);
            return;
        }
        self.split(vocab, word, &mut scratch.symbols);
        self.merge(vocab, word.as_bytes(), scratch);
        self.emit(word.as_bytes(), &scratch.symbols, out);
    }

    fn split(&self, vocab: &Vocab, word: &str, symbols: &mut Vec<Symbol>) {
        symbols.clear();
        let mut push = |start: usize, len: usize, id: u32| {
            let at = symbols.len();
            let left = if at == 0 { END } else { at - 1 };
            symbols.push(Symbol { start, len, left, right: at + 1, id });
        };
        match &self.symbols {
            Symbols::Bytes(ids) => {
                for (start, &byte) in word.as_bytes().iter().enumerate() {
                    push(start, 1, ids[usize::from(byte)]);
                }
            }
            Symbols::Chars { .. } => {
                for (start, c) in word.char_indices() {
                    let len = c.len_utf8();
                    push(start, len, vocab.id(&word.as_bytes()[start..start + len]).unwrap_or(NONE));
                }
            }
        }
        if let Some(last) = symbols.last_mut() {
            last.right = END;
        }
    }

    fn merge(&self, vocab: &Vocab, word: &[u8], scratch: &mut Scratch) {
        let Scratch { symbols, heap } = scratch;
        heap.clear();
        for left in 0..symbols.len().saturating_sub(1) {
            heap.extend(self.candidate(vocab, word, symbols, left).map(Reverse));
        }
        while let Some(Reverse(Candidate { rank: _, left, len, id })) = heap.pop() {
            let right = symbols[left].right;
            // Symbols only grow or vanish, so an unchanged total length means that both are unchanged.
            if symbols[left].len == 0 || right == END || symbols[left].len + symbols[right].len != len {
                continue;
            }
            let after = symbols[right].right;
            symbols[right].len = 0;
            symbols[left].len = len;
            symbols[left].id = id;
            symbols[left].right = after;
            if after != END {
                symbols[after].left = left;
            }
            heap.extend(self.candidate(vocab, word, symbols, left).map(Reverse));
            let before = symbols[left].left;
            if before != END {
                heap.extend(self.candidate(vocab, word, symbols, before).map(Reverse));
            }
        }
    }

    fn candidate(&self, vocab: &Vocab, word: &[u8], symbols: &[Symbol], left: usize) -> Option<Candidate> {
        let a = &symbols[left];
        let b = symbols.get(a.right)?;
        let len = a.len + b.len;
        let Merge { rank, id } = match &self.merges {
            Merges::Ranks(pairs) => pairs.get(a.id, b.id)?,
            Merges::Scores(scores) => {
                let id = vocab.id(&word[a.start..a.start + len])?;
                if !matches!(vocab.kind(id), Some(Kind::Normal | Kind::UserDefined | Kind::Unused)) {
                    return None;
                }
                let score = scores.get(id as usize).copied().unwrap_or(0.0);
                Merge { rank: descending(score), id }
            }
        };
        Some(Candidate { rank, left, len, id })
    }

    fn emit(&self, word: &[u8], symbols: &[Symbol], out: &mut Vec<u32>) {
        let mut after_unknown = false;
        let mut at = 0;
        while let Some(symbol) = symbols.get(at) {
            at = symbol.right;
            if symbol.id != NONE {
                out.push(symbol.id);
                after_unknown = false;
                continue;
            }
            let bytes = &word[symbol.start..symbol.start + symbol.len];
            if let Symbols::Chars { byte_fallback: Some(ids) } = &self.symbols
                && bytes.iter().all(|&byte| ids[usize::from(byte)] != NONE)
            {
                out.extend(bytes.iter().map(|&byte| ids[usize::from(byte)]));
                after_unknown = false;
            } else if let Some(unknown) = self.unknown {
                if !(after_unknown && self.fuse_unknown) {
                    out.push(unknown);
                }
                after_unknown = true;
            }
        }
    }
}

/// Maps scores to integers that sort the other way round; not-a-number goes last.
fn descending(score: f32) -> u32 {
    if score.is_nan() {
        return u32::MAX;
    }
    let bits = score.to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_scores_rank_first() {
        let scores = [f32::INFINITY, 3.5, 0.0, -0.5, -7.0, f32::NEG_INFINITY, f32::NAN];
        assert!(scores.is_sorted_by_key(|&score| descending(score)));
    }
}
