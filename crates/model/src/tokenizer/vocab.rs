//! The vocabulary: token bytes by id and id by bytes, in two flat allocations.

use std::hash::{BuildHasher, RandomState};

use super::error::{TokenizerError, invalid};

/// Marks the absence of a token id.
pub(crate) const NONE: u32 = u32::MAX;

/// Largest vocabulary accepted, four times the largest one in use; it bounds what a sparse table can allocate.
pub(crate) const MAX_TOKENS: usize = 1 << 22;

/// What a token is for, as GGUF's `token_type` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Made by merges.
    Normal,
    /// Stands for what cannot be encoded.
    Unknown,
    /// Never part of text: begin, end, roles of a chat.
    Control,
    /// Added to the vocabulary; matched in text before anything else.
    UserDefined,
    /// A hole or a reserved entry.
    Unused,
    /// One byte of byte fallback.
    Byte,
}

/// Token bytes by id, and the reverse.
#[derive(Debug)]
pub(crate) struct Vocab {
    blob: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<Kind>,
    /// Open addressing over ids, a power of two at least twice the number of tokens.
    slots: Vec<u32>,
    hasher: RandomState,
    longest: usize,
}

impl Vocab {
    pub(crate) fn with_capacity(tokens: usize, bytes: usize) -> Vocab {
        let tokens = tokens.min(MAX_TOKENS);
        Vocab {
            blob: Vec::with_capacity(bytes.min(u32::MAX as usize)),
            ends: Vec::with_capacity(tokens),
            kinds: Vec::with_capacity(tokens),
            slots: vec![NONE; (tokens.max(8) * 2).next_power_of_two()],
            // Seeded per process: a table made to collide would otherwise make loading quadratic.
            hasher: RandomState::new(),
            longest: 0,
        }
    }

    /// Appends a token. Of equal bytes the first id is found by [`Vocab::id`]; that id is returned when
    /// the bytes were taken, so that the caller can judge.
    pub(crate) fn push(&mut self, bytes: &[u8], kind: Kind) -> Result<Option<u32>, TokenizerError> {
        let id = self.ends.len();
        if id >= MAX_TOKENS {
            return Err(invalid("vocabulary", format!("more than {MAX_TOKENS} tokens")));
        }
        let end = u32::try_from(self.blob.len() + bytes.len())
            .map_err(|_| invalid("vocabulary", "the tokens' text is longer than 4 GiB"))?;
        if (id + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let taken = if bytes.is_empty() { None } else { self.insert(bytes, id as u32) };
        self.blob.extend_from_slice(bytes);
        self.ends.push(end);
        self.kinds.push(kind);
        self.longest = self.longest.max(bytes.len());
        Ok(taken)
    }

    /// Claims a slot for `id`, unless `bytes` have one, whose id is returned.
    fn insert(&mut self, bytes: &[u8], id: u32) -> Option<u32> {
        match self.slot(bytes) {
            Ok(taken) => Some(taken),
            Err(free) => {
                self.slots[free] = id;
                None
            }
        }
    }

    fn slot(&self, bytes: &[u8]) -> Result<u32, usize> {
        let mask = self.slots.len() - 1;
        let mut at = self.hasher.hash_one(bytes) as usize & mask;
        loop {
            match self.slots[at] {
                NONE => return Err(at),
                id if self.bytes(id) == bytes => return Ok(id),
                _ => at = (at + 1) & mask,
            }
        }
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        self.slots = vec![NONE; old.len() * 2];
        for id in old.into_iter().filter(|&id| id != NONE) {
            if let Err(free) = self.slot(self.bytes(id)) {
                self.slots[free] = id;
            }
        }
    }

    /// Bytes of a token; empty for an id outside the vocabulary.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.blob[start as usize..end as usize]
    }

    pub(crate) fn id(&self, bytes: &[u8]) -> Option<u32> {
        if bytes.is_empty() || bytes.len() > self.longest {
            return None;
        }
        self.slot(bytes).ok()
    }

    pub(crate) fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn kinds(&self) -> impl Iterator<Item = (u32, Kind)> + '_ {
        (0u32..).zip(self.kinds.iter().copied())
    }
}
