//! Which endpoint has seen which block of a prompt: a bounded memory of what lies in the engines' prefix caches.
//!
//! One map from block hash to the endpoints that hold it answers how far every endpoint matches in one walk, whatever their number. Each
//! endpoint has its own list from the latest to the oldest block and forgets the oldest first, as engines do; within one prompt the last
//! blocks go first, since a block without those before it is of no use. An endpoint's blocks go with the endpoint.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::prefix::block_bytes;
use crate::recency::{Identity, Recency};

/// How much is remembered of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Blocks: bounds the memory of the index, about 80 bytes each.
    pub blocks: usize,
    /// Bytes of text: what the engine's own cache holds, if that is known.
    pub bytes: u64,
}

/// The memory of one service.
#[derive(Debug, Default)]
pub struct PrefixIndex {
    holders: HashMap<u64, Holders, BuildHasherDefault<Identity>>,
    endpoints: Vec<Recency>,
}

/// Who holds a block: (endpoint, its entry). Nearly always one or two.
#[derive(Debug, Default)]
struct Holders(Vec<(u32, u32)>);

impl PrefixIndex {
    /// How many leading blocks each endpoint holds: `matched[endpoint]`, for endpoints below `matched.len()`.
    pub fn matches(&self, blocks: &[u64], matched: &mut [u32]) {
        matched.fill(0);
        for (depth, hash) in blocks.iter().enumerate() {
            let mut any = false;
            if let Some(holders) = self.holders.get(hash) {
                for &(endpoint, _) in &holders.0 {
                    // Only an unbroken prefix counts.
                    if let Some(count) = matched.get_mut(endpoint as usize)
                        && *count as usize == depth
                    {
                        *count += 1;
                        any = true;
                    }
                }
            }
            if !any {
                return;
            }
        }
    }

    /// The endpoint has been sent this prompt.
    pub fn insert(&mut self, endpoint: u32, blocks: &[u64], capacity: Capacity) {
        if self.endpoints.len() <= endpoint as usize {
            self.endpoints.resize_with(endpoint as usize + 1, Recency::default);
        }
        let recency = &mut self.endpoints[endpoint as usize];
        // Last block first, so that the first one ends up as the latest.
        for (position, &hash) in blocks.iter().enumerate().rev() {
            let holders = self.holders.entry(hash).or_default();
            match holders.0.iter().find(|(holder, _)| *holder == endpoint) {
                Some(&(_, entry)) => recency.touch(entry),
                None => {
                    let entry = recency.push(hash, block_bytes(position) as u64);
                    holders.0.push((endpoint, entry));
                }
            }
        }
        while recency.len > capacity.blocks || recency.bytes > capacity.bytes {
            let Some(hash) = recency.pop_oldest() else { break };
            forget(&mut self.holders, hash, endpoint);
        }
    }

    /// The endpoint is gone, or its cache is: a server that started again under the same address.
    pub fn remove(&mut self, endpoint: u32) {
        let Some(recency) = self.endpoints.get_mut(endpoint as usize) else { return };
        while let Some(hash) = recency.pop_oldest() {
            forget(&mut self.holders, hash, endpoint);
        }
        *recency = Recency::default();
    }

    /// Blocks that are remembered of an endpoint.
    pub fn len(&self, endpoint: u32) -> usize {
        self.endpoints.get(endpoint as usize).map_or(0, |recency| recency.len)
    }

    /// Whether nothing is remembered of anybody.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }
}

fn forget(holders: &mut HashMap<u64, Holders, BuildHasherDefault<Identity>>, hash: u64, endpoint: u32) {
    if let Some(entry) = holders.get_mut(&hash) {
        entry.0.retain(|(holder, _)| *holder != endpoint);
        if entry.0.is_empty() {
            holders.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MUCH: Capacity = Capacity { blocks: 1000, bytes: u64::MAX };

    fn matched(index: &PrefixIndex, blocks: &[u64]) -> [u32; 3] {
        let mut matched = [9; 3];
        index.matches(blocks, &mut matched);
        matched
    }

    #[test]
    fn every_endpoint_matches_as_far_as_it_has_seen() {
        let mut index = PrefixIndex::default();
        index.insert(0, &[1, 2, 3], MUCH);
        index.insert(2, &[1, 2, 3, 4, 5], MUCH);
        assert_eq!(matched(&index, &[1, 2, 3, 4, 9]), [3, 0, 4]);
        assert_eq!(matched(&index, &[7, 2, 3]), [0, 0, 0]);
    }

    #[test]
    fn the_oldest_prompt_is_forgotten_first_and_its_end_before_its_start() {
        let mut index = PrefixIndex::default();
        let capacity = Capacity { blocks: 6, bytes: u64::MAX };
        index.insert(0, &[1, 2, 3], capacity);
        index.insert(0, &[1, 4, 5], capacity);
        index.insert(0, &[6, 7], capacity);
        assert_eq!(matched(&index, &[1, 2, 3])[0], 2);
        assert_eq!(matched(&index, &[1, 4, 5])[0], 3);
        index.insert(0, &[8, 9, 10], capacity);
        assert_eq!(matched(&index, &[1, 2])[0], 1, "2 went before 1, which the later prompt had used");
    }

    #[test]
    fn an_engine_that_holds_few_bytes_is_remembered_by_bytes() {
        let mut index = PrefixIndex::default();
        index.insert(0, &[1, 2, 3, 4], Capacity { blocks: 100, bytes: 128 });
        assert_eq!(matched(&index, &[1, 2, 3, 4])[0], 2);
    }

    #[test]
    fn an_endpoint_takes_its_blocks_with_it() {
        let mut index = PrefixIndex::default();
        index.insert(0, &[1, 2], MUCH);
        index.insert(1, &[1, 2], MUCH);
        index.remove(0);
        assert_eq!(matched(&index, &[1, 2]), [0, 2, 0]);
        index.remove(1);
        assert!(index.is_empty());
        assert_eq!(index.len(1), 0);
    }

    proptest! {
        /// Beside a plain model: a vector of hashes for each endpoint, latest first.
        #[test]
        fn does_what_a_list_would_do(prompts in proptest::collection::vec((0u32..3, 0u64..6, 1usize..6), 1..60)) {
            let capacity = Capacity { blocks: 8, bytes: u64::MAX };
            let (mut index, mut lists) = (PrefixIndex::default(), vec![Vec::<u64>::new(); 3]);
            for (endpoint, family, length) in prompts {
                let blocks: Vec<u64> = (0..length as u64).map(|depth| family * 100 + depth).collect();
                index.insert(endpoint, &blocks, capacity);
                let list = &mut lists[endpoint as usize];
                for &block in blocks.iter().rev() {
                    list.retain(|known| *known != block);
                    list.insert(0, block);
                }
                list.truncate(8);
                let wanted: Vec<u32> = lists.iter()
                    .map(|list| blocks.iter().take_while(|block| list.contains(block)).count() as u32)
                    .collect();
                prop_assert_eq!(&matched(&index, &blocks)[..], &wanted[..]);
                prop_assert_eq!(index.len(endpoint), lists[endpoint as usize].len());
            }
        }
    }
}
