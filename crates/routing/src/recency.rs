//! What was used when: hashes from the latest to the oldest, every operation in constant time, and the hasher for maps beside it.
//!
//! It decides nothing: whoever holds it says when something is used and when the oldest must go.

use std::hash::Hasher;

/// No entry.
const NONE: u32 = u32::MAX;

/// One endpoint's blocks from the latest to the oldest: a doubly linked list in a vector.
#[derive(Debug)]
pub(crate) struct Recency {
    entries: Vec<Entry>,
    free: Vec<u32>,
    latest: u32,
    oldest: u32,
    pub(crate) len: usize,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    bytes: u64,
    newer: u32,
    older: u32,
}

impl Default for Recency {
    fn default() -> Self {
        Recency { entries: Vec::new(), free: Vec::new(), latest: NONE, oldest: NONE, len: 0, bytes: 0 }
    }
}

impl Recency {
    pub(crate) fn push(&mut self, hash: u64, bytes: u64) -> u32 {
        let entry = Entry { hash, bytes, newer: NONE, older: NONE };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.len += 1;
        self.bytes += bytes;
        self.link_latest(slot);
        slot
    }

    pub(crate) fn touch(&mut self, slot: u32) {
        if self.latest != slot {
            self.unlink(slot);
            self.link_latest(slot);
        }
    }

    pub(crate) fn pop_oldest(&mut self) -> Option<u64> {
        let slot = self.oldest;
        if slot == NONE {
            return None;
        }
        Some(self.take(slot))
    }

    /// Out of the list, wherever it is.
    pub(crate) fn take(&mut self, slot: u32) -> u64 {
        self.unlink(slot);
        self.free.push(slot);
        let Entry { hash, bytes, newer: _, older: _ } = self.entries[slot as usize];
        self.len -= 1;
        self.bytes -= bytes;
        hash
    }

    fn link_latest(&mut self, slot: u32) {
        let before = self.latest;
        self.entries[slot as usize].older = before;
        self.entries[slot as usize].newer = NONE;
        match before {
            NONE => self.oldest = slot,
            before => self.entries[before as usize].newer = slot,
        }
        self.latest = slot;
    }

    fn unlink(&mut self, slot: u32) {
        let (newer, older) = {
            let entry = &self.entries[slot as usize];
            (entry.newer, entry.older)
        };
        match newer {
            NONE => self.latest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }
}

/// A hasher for keys that are hashes already.
#[derive(Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 keys are hashed");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}
