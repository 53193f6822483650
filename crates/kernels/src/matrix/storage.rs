//! Decides who holds the bytes of a packed matrix: the matrix itself, or somebody else who shares them.
#![expect(unsafe_code, reason = "views cache lines as bytes")]

use std::sync::Arc;

/// Bytes that their holder never changes and that live as long as anybody reads them, such as a mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Bytes in a cache line. Vectors that are loaded from two lines take twice as long.
pub(super) const LINE: usize = 64;

#[repr(C, align(64))]
struct Line([u8; LINE]);

/// Bytes that begin at a cache line.
pub(super) struct Owned(Box<[Line]>);

impl Owned {
    pub(super) fn zeroed(lines: usize) -> Owned {
        // Zeroed by the system page by page, so that the threads that pack share the page faults.
        // SAFETY: a line is bytes, for which zero is a value.
        Owned(unsafe { Box::new_zeroed_slice(lines).assume_init() })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: a line is 64 initialised bytes without padding; the length counts the slice's lines.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * LINE) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the slice is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * LINE) }
    }
}

/// The bytes of a packed matrix.
pub(super) enum Storage {
    Owned(Owned),
    /// `len` bytes from `offset` on.
    Shared {
        bytes: SharedBytes,
        offset: usize,
        len: usize,
    },
}

impl Storage {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Storage::Owned(owned) => owned.bytes(),
            Storage::Shared { bytes, offset, len } => &bytes.as_ref().as_ref()[*offset..*offset + *len],
        }
    }
}
