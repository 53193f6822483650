//! A prompt as a chain of block hashes: two prompts share as many leading hashes as they share leading blocks.
//!
//! What is hashed is the text of the request, not tokens: the gateway has no tokenizer, and engines cache whole prefixes, so equal leading
//! bytes are equal leading tokens but for the last few. Each hash covers its block and, through the hash before it, everything before; the
//! first one also covers what the engine's own cache depends on beside the text (model, adapter, tools, salt).
//!
//! Blocks grow with depth, four times after every 64 blocks, so that a long context costs few lookups and a short one is still told apart:
//! 320 blocks reach 1.3 MiB with a resolution of at most 1.2% of the depth beyond the first 4 KiB.

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64_with_seed};

/// Bytes of the first blocks: about 16 tokens, as in vLLM's and our KV blocks.
pub const BLOCK_BYTES: usize = 64;
/// After so many blocks their size grows.
const TIER_BLOCKS: usize = 64;
/// How much it grows.
const TIER_GROWTH: usize = 4;
/// Tiers; what is beyond is not told apart.
const TIERS: usize = 5;
/// Most blocks of a prompt.
pub const MAX_BLOCKS: usize = TIERS * TIER_BLOCKS;

/// Bytes of the block at this position.
pub fn block_bytes(position: usize) -> usize {
    BLOCK_BYTES * TIER_GROWTH.pow((position / TIER_BLOCKS) as u32)
}

/// The hash of what a prompt's KV depends on beside its text.
pub fn seed<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    // Lengths first, so that ("ab", "c") and ("a", "bc") differ.
    parts.into_iter().fold(0, |seed, part| xxh3_64_with_seed(part, seed ^ part.len() as u64))
}

/// A prompt as routing sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// Hashes of its whole blocks, first to last.
    pub blocks: Vec<u64>,
    /// Bytes of its text.
    pub bytes: usize,
}

impl Prompt {
    /// Hashes a text that lies in several pieces.
    pub fn new<'a>(seed: u64, pieces: impl IntoIterator<Item = &'a [u8]>) -> Prompt {
        let mut hasher = Hasher::new(seed);
        for piece in pieces {
            hasher.push(piece);
        }
        hasher.finish()
    }

    /// Bytes that the first `blocks` blocks cover.
    pub fn covered(&self, blocks: usize) -> usize {
        (0..blocks.min(self.blocks.len())).map(block_bytes).sum()
    }
}

/// Hashes a text as it arrives.
pub struct Hasher {
    blocks: Vec<u64>,
    bytes: usize,
    /// Of the block that is not yet whole.
    state: Xxh3Default,
    filled: usize,
    previous: u64,
}

impl Hasher {
    /// A prompt without text yet.
    pub fn new(seed: u64) -> Hasher {
        let mut hasher =
            Hasher { blocks: Vec::new(), bytes: 0, state: Xxh3Default::new(), filled: 0, previous: seed };
        hasher.state.update(&seed.to_le_bytes());
        hasher
    }

    /// More of the text.
    pub fn push(&mut self, mut piece: &[u8]) {
        self.bytes += piece.len();
        while !piece.is_empty() && self.blocks.len() < MAX_BLOCKS {
            let size = block_bytes(self.blocks.len());
            let taken = piece.len().min(size - self.filled);
            let (head, rest) = piece.split_at(taken);
            self.state.update(head);
            self.filled += taken;
            piece = rest;
            if self.filled == size {
                self.previous = self.state.digest();
                self.blocks.push(self.previous);
                self.state.reset();
                self.state.update(&self.previous.to_le_bytes());
                self.filled = 0;
            }
        }
    }

    /// Whether more text would change the hashes.
    pub fn is_full(&self) -> bool {
        self.blocks.len() == MAX_BLOCKS
    }

    /// The prompt; what is left of the last block is not hashed, since another prompt may go on differently there.
    pub fn finish(self) -> Prompt {
        Prompt { blocks: self.blocks, bytes: self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prompt(text: &[u8]) -> Prompt {
        Prompt::new(7, [text])
    }

    #[test]
    fn a_longer_conversation_begins_with_the_hashes_of_the_shorter() {
        let short = prompt(&[b'a'; 1000]);
        let mut long = vec![b'a'; 1000];
        long.extend([b'b'; 1000]);
        let long = prompt(&long);
        assert_eq!(short.blocks.len(), 15);
        assert_eq!(long.blocks[..15], short.blocks[..]);
        assert_eq!(long.covered(15), 960);
    }

    #[test]
    fn a_change_at_the_start_changes_every_hash() {
        let mut other = vec![b'a'; 1000];
        other[0] = b'b';
        let (one, two) = (prompt(&[b'a'; 1000]), prompt(&other));
        assert!(one.blocks.iter().zip(&two.blocks).all(|(a, b)| a != b));
    }

    #[test]
    fn what_the_cache_depends_on_beside_the_text_changes_every_hash() {
        let one = Prompt::new(seed([&b"model"[..], b"adapter"]), [&[0u8; 64][..]]);
        let two = Prompt::new(seed([&b"modela"[..], b"dapter"]), [&[0u8; 64][..]]);
        assert_ne!(one.blocks, two.blocks);
    }

    #[test]
    fn a_very_long_text_has_a_bounded_number_of_blocks() {
        let long = prompt(&vec![1; 3 << 20]);
        assert_eq!(long.blocks.len(), MAX_BLOCKS);
        assert_eq!(long.bytes, 3 << 20);
        assert_eq!(long.covered(MAX_BLOCKS), 64 * 64 * (1 + 4 + 16 + 64 + 256));
    }

    proptest! {
        #[test]
        fn how_a_text_is_cut_does_not_matter(text in proptest::collection::vec(any::<u8>(), 0..9000), cuts in proptest::collection::vec(0usize..9000, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]);
            prop_assert_eq!(Prompt::new(1, pieces), Prompt::new(1, [&text[..]]));
        }
    }
}
