//! Decides which KV block is handed out next and which cached content is forgotten.

use std::collections::HashMap;

use crate::backend::BlockId;
use crate::kv::BlockHash;

/// All KV blocks of a backend. A block is in exactly one state: used (references > 0) or free; a free block may
/// still hold cached content until it is handed out again: those without go first, then the least recently released.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    cached: HashMap<BlockHash, BlockId>,
    /// Ends of the free list, oldest first; `NONE` when empty.
    oldest: u32,
    newest: u32,
    free: usize,
}

#[derive(Clone, Debug)]
struct Block {
    references: u32,
    hash: Option<BlockHash>,
    older: u32,
    newer: u32,
}

const NONE: u32 = u32::MAX;

impl BlockPool {
    /// A pool of `blocks` free, empty blocks.
    pub fn new(blocks: usize) -> Self {
        assert!(blocks < NONE as usize, "block ids are 32-bit");
        let mut pool = BlockPool {
            blocks: vec![Block { references: 0, hash: None, older: NONE, newer: NONE }; blocks],
            cached: HashMap::new(),
            oldest: NONE,
            newest: NONE,
            free: 0,
        };
        for index in 0..blocks as u32 {
            pool.push_free(index);
        }
        pool
    }

    /// Blocks in all.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// True for a pool without blocks.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Blocks that nobody references; all of them can be allocated.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Blocks that somebody references.
    pub fn used(&self) -> usize {
        self.blocks.len() - self.free
    }

    /// The cached blocks of the longest known prefix of `hashes`, and how many of them are free at the moment
    /// (taking those lowers [`BlockPool::free`]). Takes nothing.
    pub fn find(&self, hashes: &[BlockHash]) -> (Vec<BlockId>, usize) {
        let found: Vec<BlockId> = hashes.iter().map_while(|hash| self.cached.get(hash).copied()).collect();
        let free = found.iter().filter(|id| self.blocks[id.0 as usize].references == 0).count();
        (found, free)
    }

    /// Takes a reference to a block found in the cache.
    pub fn share(&mut self, id: BlockId) {
        if self.blocks[id.0 as usize].references == 0 {
            self.unlink_free(id.0);
        }
        self.blocks[id.0 as usize].references += 1;
    }

    /// Hands out a block without content, or else the one released longest ago, forgetting its content.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let index = self.oldest;
        if index == NONE {
            return None;
        }
        self.unlink_free(index);
        let block = &mut self.blocks[index as usize];
        block.references = 1;
        if let Some(hash) = block.hash.take() {
            self.cached.remove(&hash);
        }
        Some(BlockId(index))
    }

    /// Makes a full, computed block findable. When the same content is already cached in another block, that one stays.
    pub fn publish(&mut self, id: BlockId, hash: BlockHash) {
        let block = &mut self.blocks[id.0 as usize];
        debug_assert!(block.references > 0, "only a used block has just been computed");
        if block.hash.is_none() && !self.cached.contains_key(&hash) {
            block.hash = Some(hash);
            self.cached.insert(hash, id);
        }
    }

    /// Gives a reference back.
    pub fn release(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.0 as usize];
        assert!(block.references > 0, "released block {} twice", id.0);
        block.references -= 1;
        if block.references == 0 {
            match block.hash {
                Some(_) => self.push_free(id.0),
                None => self.push_empty(id.0),
            }
        }
    }

    /// To the end that is handed out first.
    fn push_empty(&mut self, index: u32) {
        let oldest = self.oldest;
        let block = &mut self.blocks[index as usize];
        block.older = NONE;
        block.newer = oldest;
        match oldest {
            NONE => self.newest = index,
            oldest => self.blocks[oldest as usize].older = index,
        }
        self.oldest = index;
        self.free += 1;
    }

    /// To the end that is handed out last.
    fn push_free(&mut self, index: u32) {
        let newest = self.newest;
        let block = &mut self.blocks[index as usize];
        block.older = newest;
        block.newer = NONE;
        match newest {
            NONE => self.oldest = index,
            newest => self.blocks[newest as usize].newer = index,
        }
        self.newest = index;
        self.free += 1;
    }

    fn unlink_free(&mut self, index: u32) {
        let Block { older, newer, .. } = self.blocks[index as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.blocks[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.blocks[newer as usize].older = older,
        }
        self.free -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(n: u128) -> BlockHash {
        BlockHash(n)
    }

    #[test]
    fn released_content_is_found_until_its_block_is_needed() {
        let mut pool = BlockPool::new(2);
        let first = pool.allocate().unwrap();
        let second = pool.allocate().unwrap();
        assert_eq!(pool.allocate(), None);
        pool.publish(first, hash(1));
        pool.publish(second, hash(2));
        pool.release(second);
        pool.release(first);
        assert_eq!(pool.find(&[hash(1), hash(2), hash(3)]), (vec![first, second], 2));
        assert_eq!(pool.allocate(), Some(second), "the block released first goes first");
        assert_eq!(pool.find(&[hash(1), hash(2)]), (vec![first], 1));
    }

    #[test]
    fn blocks_without_content_are_handed_out_before_any_is_forgotten() {
        let mut pool = BlockPool::new(3);
        let kept = pool.allocate().unwrap();
        pool.publish(kept, hash(1));
        pool.release(kept);
        for _ in 0..10 {
            let guessed = pool.allocate().unwrap();
            pool.release(guessed);
        }
        assert_eq!(pool.find(&[hash(1)]), (vec![kept], 1));
    }

    #[test]
    fn a_shared_block_is_free_only_after_the_last_release() {
        let mut pool = BlockPool::new(1);
        let id = pool.allocate().unwrap();
        pool.publish(id, hash(1));
        pool.share(id);
        pool.release(id);
        assert_eq!((pool.free(), pool.used()), (0, 1));
        pool.release(id);
        assert_eq!((pool.free(), pool.used()), (1, 0));
        pool.share(id);
        assert_eq!(pool.allocate(), None);
    }

    #[test]
    fn the_first_block_with_a_content_stays_the_cached_one() {
        let mut pool = BlockPool::new(2);
        let first = pool.allocate().unwrap();
        let second = pool.allocate().unwrap();
        pool.publish(first, hash(1));
        pool.publish(second, hash(1));
        assert_eq!(pool.find(&[hash(1)]), (vec![first], 0));
        pool.release(second);
        pool.allocate().unwrap();
        assert_eq!(pool.find(&[hash(1)]), (vec![first], 0), "evicting the copy leaves the cached one");
    }

    proptest! {
        #[test]
        fn every_block_is_used_or_free_and_never_handed_out_twice(ops in proptest::collection::vec((0u8..4, 0usize..8), 1..200)) {
            let mut pool = BlockPool::new(6);
            let mut held: Vec<BlockId> = Vec::new();
            for (op, n) in ops {
                match op {
                    0 => {
                        if let Some(id) = pool.allocate() {
                            prop_assert!(!held.contains(&id));
                            held.push(id);
                        }
                    }
                    1 if !held.is_empty() => pool.release(held.swap_remove(n % held.len())),
                    2 if !held.is_empty() => pool.publish(held[n % held.len()], hash(n as u128)),
                    3 => {
                        for id in pool.find(&[hash(n as u128)]).0 {
                            pool.share(id);
                            held.push(id);
                        }
                    }
                    _ => {}
                }
                let mut distinct = held.clone();
                distinct.sort();
                distinct.dedup();
                prop_assert_eq!(pool.used(), distinct.len());
                prop_assert_eq!(pool.free() + pool.used(), pool.len());
            }
            for id in held {
                pool.release(id);
            }
            prop_assert_eq!(pool.free(), 6);
        }
    }
}
