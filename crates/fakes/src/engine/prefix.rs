//! The model of a prefix cache: chained hashes of whole blocks, the least recently used ones forgotten first. Pure.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Blocks that were computed before.
#[derive(Debug, Default)]
pub(crate) struct PrefixCache {
    /// When each block was last used.
    used: HashMap<u64, u64>,
    clock: u64,
}

impl PrefixCache {
    /// How many of `tokens` need no computing, and from now on the others neither. The last token is always computed, as an
    /// answer starts from it.
    pub(crate) fn visit(&mut self, tokens: &[u32], block: usize, capacity: usize) -> usize {
        let block = block.max(1);
        let mut cached = 0;
        let mut missed = false;
        let mut chain = 0_u64;
        for (index, content) in tokens.chunks_exact(block).enumerate() {
            let mut hasher = DefaultHasher::new();
            (chain, content).hash(&mut hasher);
            chain = hasher.finish();
            self.clock += 1;
            missed |= self.used.insert(chain, self.clock).is_none();
            if !missed && (index + 1) * block < tokens.len() {
                cached = (index + 1) * block;
            }
        }
        while self.used.len() > capacity {
            let oldest = self.used.iter().min_by_key(|(_, used)| **used).map(|(hash, _)| *hash);
            let Some(oldest) = oldest else { break };
            self.used.remove(&oldest);
        }
        cached
    }

    pub(crate) fn clear(&mut self) {
        self.used.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(start: u32, length: u32) -> Vec<u32> {
        (start..start + length).collect()
    }

    #[test]
    fn whole_blocks_of_a_shared_prefix_are_cached() {
        let mut cache = PrefixCache::default();
        let mut longer = prompt(0, 10);
        assert_eq!(cache.visit(&longer, 4, 100), 0);
        longer.extend([90, 91, 92]);
        assert_eq!(cache.visit(&longer, 4, 100), 8);
        assert_eq!(cache.visit(&longer, 4, 100), 12);
        assert_eq!(cache.visit(&prompt(5, 10), 4, 100), 0, "another start shares nothing");
    }

    #[test]
    fn the_last_token_is_computed_even_when_all_blocks_are_cached() {
        let mut cache = PrefixCache::default();
        cache.visit(&prompt(0, 8), 4, 100);
        assert_eq!(cache.visit(&prompt(0, 8), 4, 100), 4);
    }

    #[test]
    fn the_least_recently_used_blocks_are_forgotten() {
        let mut cache = PrefixCache::default();
        let (a, b) = (prompt(0, 9), prompt(100, 9));
        cache.visit(&a, 4, 2);
        cache.visit(&b, 4, 2);
        assert_eq!(cache.visit(&b, 4, 2), 8);
        assert_eq!(cache.visit(&a, 4, 2), 0);
    }
}
