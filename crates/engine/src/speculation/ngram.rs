//! Guesses what comes next from what came after the same few tokens earlier (prompt lookup decoding, Saxena 2023; vLLM's
//! n-gram proposer).
//!
//! A table per length of n-gram remembers where each was last seen, so that a step costs the tokens it added and never a
//! look over the whole context. Tables hold positions only: at most 48 bytes for each token of the context.

/// Shortest run of tokens that is looked up: single tokens repeat everywhere and foretell little.
const SHORTEST: usize = 2;
/// Longest run; what longer ones would tell apart is rarely worth another table.
const LONGEST: usize = 4;
/// Kinds of matches, by length.
pub(crate) const LENGTHS: usize = LONGEST - SHORTEST + 1;
/// Slots that a look-up may touch, so that a prompt made of colliding n-grams costs no more than any other.
const PROBES: usize = 32;

/// The latest places of the n-grams of one sequence, which only grows.
#[derive(Clone, Debug)]
pub(crate) struct NgramIndex {
    /// One for each length from `SHORTEST` to `LONGEST`.
    tables: [Table; LENGTHS],
    /// N-grams that end before this position are known.
    known: usize,
}

impl NgramIndex {
    /// An index of nothing.
    pub(crate) fn new() -> Self {
        NgramIndex { tables: std::array::from_fn(|kind| Table::new(SHORTEST + kind)), known: 0 }
    }

    /// Finds the latest earlier occurrence of the longest known end of `tokens`, which begin with all tokens of earlier
    /// calls.
    pub(crate) fn find(&mut self, tokens: &[u32]) -> Option<Match> {
        self.learn(tokens);
        self.tables.iter().rev().find_map(|table| {
            let start = tokens.len().checked_sub(table.length)?;
            let next = table.find(tokens, &tokens[start..])?;
            Some(Match { next, length: table.length })
        })
    }

    /// Enters the n-grams that something follows by now.
    fn learn(&mut self, tokens: &[u32]) {
        for end in self.known + 1..tokens.len() {
            for table in &mut self.tables {
                if end >= table.length {
                    table.enter(tokens, end);
                }
            }
        }
        self.known = self.known.max(tokens.len().saturating_sub(1));
    }
}

/// Tokens that occurred before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Match {
    /// Position of what followed them.
    next: usize,
    /// How many.
    length: usize,
}

impl Match {
    /// Below [`LENGTHS`]; higher for longer matches.
    pub(crate) fn kind(self) -> usize {
        self.length - SHORTEST
    }

    /// The `count` tokens that followed. Where they reach the end of `tokens` they go on with themselves: a loop is
    /// guessed for as long as asked.
    pub(crate) fn guess(self, tokens: &[u32], count: usize) -> Vec<u32> {
        let period = tokens.len() - self.next;
        (0..count).map(|i| tokens[self.next + i % period]).collect()
    }
}

/// Where n-grams of one length end, hashed by their tokens with linear probing.
#[derive(Clone, Debug)]
struct Table {
    length: usize,
    /// Position after an n-gram; 0 is an empty slot, since no n-gram ends there. A power of two long.
    slots: Vec<u32>,
    used: usize,
}

impl Table {
    fn new(length: usize) -> Self {
        Table { length, slots: vec![0; 64], used: 0 }
    }

    fn find(&self, tokens: &[u32], gram: &[u32]) -> Option<usize> {
        self.probe(tokens, gram).ok().map(|slot| self.slots[slot] as usize)
    }

    fn enter(&mut self, tokens: &[u32], end: usize) {
        if self.used * 2 >= self.slots.len() {
            self.grow(tokens);
        }
        self.put(tokens, end);
    }

    fn put(&mut self, tokens: &[u32], end: usize) {
        let slot = match self.probe(tokens, &tokens[end - self.length..end]) {
            Ok(slot) => slot,
            Err(slot) => {
                self.used += usize::from(self.slots[slot] == 0);
                slot
            }
        };
        self.slots[slot] = u32::try_from(end).expect("a context has fewer than 2^32 tokens");
    }

    fn grow(&mut self, tokens: &[u32]) {
        let larger = vec![0; self.slots.len() * 2];
        let old = std::mem::replace(&mut self.slots, larger);
        self.used = 0;
        for end in old.into_iter().filter(|end| *end > 0) {
            self.put(tokens, end as usize);
        }
    }

    /// The slot of an n-gram, or else the one to put it in, whose content it replaces.
    fn probe(&self, tokens: &[u32], gram: &[u32]) -> Result<usize, usize> {
        let mask = self.slots.len() - 1;
        let home = hash(gram) as usize & mask;
        for slot in (home..home + PROBES).map(|slot| slot & mask) {
            let end = self.slots[slot] as usize;
            if end == 0 {
                return Err(slot);
            }
            if &tokens[end - self.length..end] == gram {
                return Ok(slot);
            }
        }
        Err(home)
    }
}

/// Multiplicative hashing (Knuth, TAOCP 6.4); the upper bits are the mixed ones.
fn hash(gram: &[u32]) -> u32 {
    let mixed = gram.iter().fold(0u64, |hash, token| {
        (hash.rotate_left(23) ^ u64::from(*token)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    (mixed >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guess(tokens: &[u32], most: usize) -> Vec<u32> {
        NgramIndex::new().find(tokens).map_or(Vec::new(), |found| found.guess(tokens, most))
    }

    #[test]
    fn the_tokens_after_the_latest_occurrence_are_guessed() {
        assert_eq!(guess(&[1, 2, 3, 4, 9, 1, 2, 5, 6, 7, 1, 2], 2), [5, 6]);
    }

    #[test]
    fn a_longer_match_wins_over_a_later_one() {
        assert_eq!(guess(&[7, 1, 2, 3, 9, 1, 2, 4, 8, 7, 1, 2], 1), [3]);
    }

    #[test]
    fn a_loop_is_guessed_beyond_its_end() {
        assert_eq!(guess(&[1, 2, 3, 1, 2, 3, 1], 5), [2, 3, 1, 2, 3]);
        assert_eq!(guess(&[5, 5, 5], 4), [5; 4]);
    }

    #[test]
    fn nothing_is_guessed_from_a_single_token_or_without_repetition() {
        for tokens in [&[][..], &[1], &[1, 2, 3, 1], &[1, 2, 3, 4, 5, 6]] {
            assert!(guess(tokens, 4).is_empty(), "{tokens:?}");
        }
    }

    #[test]
    fn a_long_context_keeps_its_tables_small() {
        let tokens: Vec<u32> = (0..100_000).map(|i: u32| i.wrapping_mul(2_654_435_761) >> 12).collect();
        let mut index = NgramIndex::new();
        index.find(&tokens);
        let bytes: usize = index.tables.iter().map(|table| table.slots.len() * size_of::<u32>()).sum();
        assert!(bytes <= 48 * tokens.len(), "{bytes} bytes");
    }

    /// The definition, by looking over everything.
    fn by_search(tokens: &[u32], most: usize) -> Vec<u32> {
        let len = tokens.len();
        for n in (SHORTEST..=LONGEST).rev().filter(|n| *n < len) {
            if let Some(place) = (n..len).rev().find(|end| tokens[end - n..*end] == tokens[len - n..]) {
                return (0..most).map(|i| tokens[place + i % (len - place)]).collect();
            }
        }
        Vec::new()
    }

    proptest! {
        #[test]
        fn token_by_token_the_index_guesses_what_a_search_finds(
            tokens in proptest::collection::vec(0u32..6, 0..300), most in 0usize..9,
        ) {
            let mut index = NgramIndex::new();
            for end in 0..=tokens.len() {
                // Steps are skipped as by a sequence that waits.
                if end % 3 != 1 {
                    let tokens = &tokens[..end];
                    let guess = index.find(tokens).map_or(Vec::new(), |found| found.guess(tokens, most));
                    prop_assert_eq!(guess, by_search(tokens, most));
                }
            }
        }
    }
}
