//! An engine's memory for keys and values: blocks in use, by one request or by several that share them, and blocks that are only cached.
//!
//! What no request uses stays until room is needed; the one that was used longest ago goes first, the end of a prompt before its start.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::recency::{Identity, Recency};

#[derive(Debug)]
pub(super) struct Cache {
    capacity: usize,
    /// Blocks whose content is known by its hash.
    known: HashMap<u64, Block, BuildHasherDefault<Identity>>,
    /// Those of them that nobody uses.
    idle: Recency,
    /// Blocks of running requests that nobody else can use.
    own: usize,
}

#[derive(Debug)]
enum Block {
    Used(u32),
    Idle(u32),
}

impl Cache {
    pub(super) fn new(capacity: usize) -> Cache {
        Cache { capacity, known: HashMap::default(), idle: Recency::default(), own: 0 }
    }

    /// Leading blocks that are cached.
    pub(super) fn matched(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|hash| self.known.contains_key(hash)).count()
    }

    /// One more request uses these cached blocks.
    pub(super) fn hold(&mut self, blocks: &[u64]) {
        for hash in blocks {
            match self.known.get_mut(hash) {
                Some(Block::Used(users)) => *users += 1,
                Some(block @ Block::Idle(_)) => {
                    if let Block::Idle(slot) = std::mem::replace(block, Block::Used(1)) {
                        self.idle.take(slot);
                    }
                }
                None => {}
            }
        }
    }

    /// A request uses these no more: they are idle unless others do.
    pub(super) fn release(&mut self, blocks: &[u64]) {
        for hash in blocks.iter().rev() {
            match self.known.get_mut(hash) {
                Some(Block::Used(users)) if *users > 1 => *users -= 1,
                Some(block) => *block = Block::Idle(self.idle.push(*hash, 1)),
                None => {}
            }
        }
    }

    /// Takes blocks for one request, at the cost of what is idle; takes none if there is no room for all.
    pub(super) fn take(&mut self, blocks: usize) -> bool {
        if self.used() + blocks > self.capacity {
            return false;
        }
        self.own += blocks;
        while self.known.len() + self.own > self.capacity {
            let Some(hash) = self.idle.pop_oldest() else { break };
            self.known.remove(&hash);
        }
        true
    }

    /// Takes blocks that there may be no room for: a request that needs more than everything runs alone.
    pub(super) fn force(&mut self, blocks: usize) {
        self.own += blocks;
    }

    pub(super) fn free(&mut self, blocks: usize) {
        self.own -= blocks;
    }

    /// Blocks of one request are computed and can be used by others, whose copies are given back.
    pub(super) fn publish(&mut self, blocks: &[u64]) {
        for &hash in blocks {
            match self.known.contains_key(&hash) {
                true => self.hold(&[hash]),
                false => {
                    self.known.insert(hash, Block::Used(1));
                }
            }
        }
        self.own -= blocks.len();
    }

    /// Share of the blocks that requests use.
    pub(super) fn usage(&self) -> f64 {
        self.used() as f64 / self.capacity as f64
    }

    fn used(&self) -> usize {
        self.known.len() - self.idle.len + self.own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(cache: &mut Cache, blocks: &[u64]) {
        assert!(cache.take(blocks.len()));
        cache.publish(blocks);
        cache.release(blocks);
    }

    #[test]
    fn what_is_idle_gives_way_and_what_is_used_does_not() {
        let mut cache = Cache::new(6);
        fill(&mut cache, &[1, 2, 3]);
        cache.hold(&[1]);
        assert!(!cache.take(6));
        assert!(cache.take(4));
        assert_eq!(cache.matched(&[1, 2, 3]), 2, "the end went first");
        cache.free(4);
        cache.release(&[1]);
        assert_eq!(cache.usage(), 0.0);
    }

    #[test]
    fn two_that_compute_the_same_share_it_afterwards() {
        let mut cache = Cache::new(6);
        assert!(cache.take(2) && cache.take(2));
        cache.publish(&[1, 2]);
        cache.publish(&[1, 2]);
        assert_eq!(cache.usage(), 2.0 / 6.0);
        cache.release(&[1, 2]);
        assert_eq!(cache.usage(), 2.0 / 6.0);
        cache.release(&[1, 2]);
        assert_eq!((cache.usage(), cache.matched(&[1, 2])), (0.0, 2));
    }
}
