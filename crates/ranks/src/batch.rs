//! Decides how chunks travel to other ranks.

use wharf_engine::{BlockId, Chunk, LogitsFor};

use crate::wire::{Reader, WireError, put_u32s};

/// A chunk that owns what it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnedChunk {
    tokens: Vec<u32>,
    start: usize,
    blocks: Vec<BlockId>,
    logits: LogitsFor,
}

impl OwnedChunk {
    pub(crate) fn borrow(&self) -> Chunk<'_> {
        Chunk { tokens: &self.tokens, start: self.start, blocks: &self.blocks, logits: self.logits }
    }
}

/// Appends chunks.
pub(crate) fn encode(chunks: &[Chunk<'_>], to: &mut Vec<u8>) {
    to.extend((chunks.len() as u32).to_le_bytes());
    for Chunk { tokens, start, blocks, logits } in chunks {
        to.extend((*start as u32).to_le_bytes());
        to.push(match logits {
            LogitsFor::None => 0,
            LogitsFor::Last => 1,
            LogitsFor::All => 2,
        });
        put_u32s(to, tokens.iter().copied());
        put_u32s(to, blocks.iter().map(|block| block.0));
    }
}

/// Reads chunks. That they make sense for a model is for the stage to check.
pub(crate) fn decode(payload: &[u8]) -> Result<Vec<OwnedChunk>, WireError> {
    const WHAT: &str = "batch";
    let mut reader = Reader::new(payload, WHAT);
    let count = reader.u32()?;
    // No capacity is reserved: the count is foreign.
    let mut chunks = Vec::new();
    for _ in 0..count {
        let start = reader.u32()? as usize;
        let logits = match reader.u8()? {
            0 => LogitsFor::None,
            1 => LogitsFor::Last,
            2 => LogitsFor::All,
            _ => return Err(WireError::Payload(WHAT)),
        };
        let tokens = reader.u32s()?;
        let blocks = reader.u32s()?.into_iter().map(BlockId).collect();
        chunks.push(OwnedChunk { tokens, start, blocks, logits });
    }
    reader.end()?;
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn chunks_arrive_as_they_were_sent() {
        let blocks = [3, 1].map(BlockId);
        let chunks = [
            Chunk { tokens: &[1, 2, 3], start: 17, blocks: &blocks, logits: LogitsFor::Last },
            Chunk { tokens: &[9], start: 0, blocks: &blocks[1..], logits: LogitsFor::All },
        ];
        let mut bytes = Vec::new();
        encode(&chunks, &mut bytes);
        let decoded = decode(&bytes).unwrap();
        let again: Vec<_> = decoded.iter().map(|chunk| format!("{:?}", chunk.borrow())).collect();
        assert_eq!(again, chunks.map(|chunk| format!("{chunk:?}")));
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "cut off at {len}");
        }
        bytes.push(0);
        assert!(decode(&bytes).is_err(), "a byte too many");
    }

    proptest! {
        #[test]
        fn foreign_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
