//! Decides how ranks write to each other: frames of a kind, a length and that many bytes.
//!
//! What arrives is foreign: a length is compared with what the frame may have before anything is allocated, and a payload is read
//! by [`Reader`], which ends in an error where the bytes do.

use std::io::{self, Read, Write};

/// Version of everything in this crate that crosses a connection.
pub(crate) const PROTOCOL: u32 = 2;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    /// A worker says who it is.
    Hello = 1,
    /// The leader takes it.
    Welcome,
    /// The leader does not, and says why.
    Refused,
    /// A worker has loaded its part.
    Ready,
    /// Chunks to compute.
    Batch,
    /// Rows for the next stage.
    Hidden,
    /// Logits of the last stage.
    Logits,
    /// What a rank has reached of some sums, or one rank's part of something.
    Values,
    /// Still there.
    Beat,
    /// The group ends in order.
    Goodbye,
    /// The group ends because of what the payload says.
    Failed,
}

impl FrameKind {
    const ALL: [FrameKind; 11] = [
        FrameKind::Hello,
        FrameKind::Welcome,
        FrameKind::Refused,
        FrameKind::Ready,
        FrameKind::Batch,
        FrameKind::Hidden,
        FrameKind::Logits,
        FrameKind::Values,
        FrameKind::Beat,
        FrameKind::Goodbye,
        FrameKind::Failed,
    ];
}

/// Why what a peer has sent cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// The connection is gone.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// A kind of frame that does not exist.
    #[error("it sent a frame of the unknown kind {0}")]
    Kind(u8),
    /// A kind of frame that has no place here.
    #[error("it sent {found:?} where {expected:?} was expected")]
    Unexpected {
        /// What came.
        found: FrameKind,
        /// What should have come.
        expected: FrameKind,
    },
    /// A frame that is too long.
    #[error("it sent a frame of {len} bytes where at most {most} were expected")]
    TooLong {
        /// Its length.
        len: usize,
        /// What it may have.
        most: usize,
    },
    /// A payload that is not what its kind says.
    #[error("it sent a {0} that cannot be read")]
    Payload(&'static str),
}

/// Bytes before a payload.
pub(crate) const HEADER: usize = 8;

/// Begins a frame in `frame`; the payload is appended and then [`finish`]ed.
pub(crate) fn begin(frame: &mut Vec<u8>, kind: FrameKind) {
    frame.clear();
    frame.extend([kind as u8, 0, 0, 0, 0, 0, 0, 0]);
}

/// Fills in the length.
///
/// # Panics
/// When the payload has 4 GiB or more: batches are bounded far below.
pub(crate) fn finish(frame: &mut [u8]) {
    let len = u32::try_from(frame.len() - HEADER).expect("payloads are shorter than 4 GiB");
    frame[4..HEADER].copy_from_slice(&len.to_le_bytes());
}

/// Writes a frame with a ready payload.
pub(crate) fn write(to: &mut impl Write, kind: FrameKind, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    begin(&mut frame, kind);
    frame.extend_from_slice(payload);
    finish(&mut frame);
    to.write_all(&frame)
}

/// Reads a frame of at most `most` bytes into `payload`.
pub(crate) fn read(from: &mut impl Read, payload: &mut Vec<u8>, most: usize) -> Result<FrameKind, WireError> {
    let mut header = [0; HEADER];
    from.read_exact(&mut header)?;
    let [kind, zeros @ .., a, b, c, d] = header;
    let known = FrameKind::ALL.into_iter().find(|known| *known as u8 == kind && zeros == [0; 3]);
    let kind = known.ok_or(WireError::Kind(kind))?;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len > most {
        return Err(WireError::TooLong { len, most });
    }
    payload.resize(len, 0);
    from.read_exact(payload)?;
    Ok(kind)
}

/// Reads a frame that has to be of one kind.
pub(crate) fn expect(
    from: &mut impl Read,
    expected: FrameKind,
    payload: &mut Vec<u8>,
    most: usize,
) -> Result<(), WireError> {
    let found = read(from, payload, most)?;
    if found == expected { Ok(()) } else { Err(WireError::Unexpected { found, expected }) }
}

/// Appends values.
pub(crate) fn put_values(to: &mut Vec<u8>, values: &[f32]) {
    to.reserve(4 * values.len());
    to.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

/// The values that bytes are; what does not fill a value is left out.
pub(crate) fn values(bytes: &[u8]) -> impl ExactSizeIterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

/// Takes a payload apart.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// What it is, for errors.
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(payload: &'a [u8], what: &'static str) -> Reader<'a> {
        Reader { rest: payload, what }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(WireError::Payload(self.what))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let bytes = self.bytes(N)?;
        Ok(*bytes.first_chunk().expect("as many bytes were taken"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A length and that many numbers.
    pub(crate) fn u32s(&mut self) -> Result<Vec<u32>, WireError> {
        let len = self.u32()? as usize;
        let bytes = self.bytes(len.checked_mul(4).ok_or(WireError::Payload(self.what))?)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }

    /// A length and as much text.
    pub(crate) fn text(&mut self) -> Result<String, WireError> {
        let len = self.u32()? as usize;
        let bytes = self.bytes(len)?.to_vec();
        String::from_utf8(bytes).map_err(|_| WireError::Payload(self.what))
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Payload(self.what)) }
    }
}

/// Appends a length and numbers, as [`Reader::u32s`] reads them.
pub(crate) fn put_u32s(to: &mut Vec<u8>, numbers: impl ExactSizeIterator<Item = u32>) {
    to.extend((numbers.len() as u32).to_le_bytes());
    to.extend(numbers.flat_map(u32::to_le_bytes));
}

/// Appends a length and text, as [`Reader::text`] reads it.
pub(crate) fn put_text(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u32).to_le_bytes());
    to.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written_and_no_longer_than_allowed() {
        let mut bytes = Vec::new();
        write(&mut bytes, FrameKind::Failed, b"why").unwrap();
        let mut payload = Vec::new();
        assert_eq!(read(&mut &bytes[..], &mut payload, 3).unwrap(), FrameKind::Failed);
        assert_eq!(payload, b"why");
        let error = read(&mut &bytes[..], &mut payload, 2).unwrap_err().to_string();
        assert_eq!(error, "it sent a frame of 3 bytes where at most 2 were expected");
        let error = expect(&mut &bytes[..], FrameKind::Ready, &mut payload, 3).unwrap_err().to_string();
        assert_eq!(error, "it sent Failed where Ready was expected");
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_an_error_and_allocate_nothing(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut payload = Vec::new();
            // Errors are as good as frames here; a panic is not.
            let _ = read(&mut &bytes[..], &mut payload, 32);
            prop_assert!(payload.capacity() <= 64);
            let mut reader = Reader::new(&bytes, "test");
            let _ = (reader.u32s(), reader.text(), reader.u8());
        }
    }
}
