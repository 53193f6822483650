//! A body in the pieces in which it arrived.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// Pieces of a body. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chunks {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Chunks {
    /// Adds a piece at the end.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Bytes of all pieces.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of a range, piece by piece.
    pub(crate) fn slices(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        let mut offset = 0;
        self.pieces.iter().filter_map(move |piece| {
            let start = range.start.max(offset);
            let end = range.end.min(offset + piece.len());
            let slice = (start < end).then(|| &piece[start - offset..end - offset]);
            offset += piece.len();
            slice
        })
    }

    /// The bytes of a range in one piece: copied only if they lie in several.
    pub(crate) fn get(&self, range: Range<usize>) -> Bytes {
        let mut offset = 0;
        for piece in &self.pieces {
            if range.start >= offset && range.end <= offset + piece.len() {
                return piece.slice(range.start - offset..range.end - offset);
            }
            offset += piece.len();
        }
        let mut joined = BytesMut::with_capacity(range.len());
        self.slices(range).for_each(|slice| joined.extend_from_slice(slice));
        joined.freeze()
    }

    /// The next piece.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.len -= piece.len();
        Some(piece)
    }

    /// Takes away what begins at this byte.
    pub(crate) fn split_off(&mut self, at: usize) -> Chunks {
        let mut rest = Chunks::default();
        while self.len > at {
            let Some(mut piece) = self.pieces.pop_back() else { break };
            self.len -= piece.len();
            if self.len < at {
                let head = piece.split_to(at - self.len);
                self.push(head);
            }
            rest.len += piece.len();
            rest.pieces.push_front(piece);
        }
        rest
    }

    /// With a range replaced by something else.
    pub(crate) fn replaced(&self, range: Range<usize>, with: Bytes) -> Chunks {
        let mut result = Chunks::default();
        let mut offset = 0;
        let mut with = Some(with);
        for piece in &self.pieces {
            let end = offset + piece.len();
            if offset < range.start {
                result.push(piece.slice(..piece.len().min(range.start - offset)));
            }
            if end >= range.start
                && let Some(with) = with.take()
            {
                result.push(with);
            }
            if end > range.end {
                result.push(piece.slice(range.end.saturating_sub(offset)..));
            }
            offset = end;
        }
        result
    }
}

impl From<Bytes> for Chunks {
    fn from(bytes: Bytes) -> Chunks {
        let mut chunks = Chunks::default();
        chunks.push(bytes);
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(pieces: &[&'static str]) -> Chunks {
        let mut chunks = Chunks::default();
        pieces.iter().for_each(|piece| chunks.push(Bytes::from_static(piece.as_bytes())));
        chunks
    }

    fn text(chunks: &Chunks) -> String {
        String::from_utf8(chunks.get(0..chunks.len()).to_vec()).unwrap()
    }

    #[test]
    fn a_range_is_the_same_whatever_the_pieces() {
        for pieces in [&["abcdef"][..], &["ab", "cd", "ef"], &["a", "bcde", "f"]] {
            let chunks = chunks(pieces);
            assert_eq!(&chunks.get(1..5)[..], b"bcde");
            assert_eq!(chunks.slices(2..4).collect::<Vec<_>>().concat(), b"cd");
            assert_eq!(text(&chunks.replaced(1..5, Bytes::from_static(b"-"))), "a-f");
            assert_eq!(text(&chunks.replaced(2..2, Bytes::from_static(b"-"))), "ab-cdef");
            assert_eq!(text(&chunks.replaced(0..6, Bytes::from_static(b"-"))), "-");
        }
    }

    #[test]
    fn what_is_split_off_and_what_stays_are_all_there_is() {
        for at in 0..=6 {
            for pieces in [&["abcdef"][..], &["ab", "cd", "ef"], &["a", "bcde", "f"]] {
                let mut stays = chunks(pieces);
                let rest = stays.split_off(at);
                assert_eq!((stays.len(), rest.len()), (at, 6 - at));
                assert_eq!(text(&stays) + &text(&rest), "abcdef");
            }
        }
    }
}
