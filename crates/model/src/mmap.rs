//! Maps checkpoint files into memory, read-only. The only place of this crate with `unsafe`.
//!
//! A file that another process truncates while it is mapped faults the reader (SIGBUS); checkpoints are
//! replaced by renaming a new file into place, never by writing into one that is in use.

#![expect(unsafe_code, reason = "mapping a file and dropping its pages are unsafe by nature")]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

/// A whole file as bytes; unmapped when dropped.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps all of `path`. An empty file is an `UnexpectedEof` error.
    pub(crate) fn open(path: &Path) -> io::Result<MappedFile> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if metadata.len() == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty"));
        }
        // SAFETY: we never write through the map. That others neither truncate nor change the file is excluded by
        // convention only (see the module comment): models are immutable files.
        let map = unsafe { Mmap::map(&file)? };
        Ok(MappedFile { path: path.to_owned(), map })
    }

    /// Where the file was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the kernel drop the resident pages of `offset..offset + len`; reading them again refetches them
    /// from the page cache. `offset + len` must lie within the file.
    pub(crate) fn release(&self, offset: usize, len: usize) -> io::Result<()> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.map.len());
        assert!(inside, "released range lies within the mapped file");
        if len == 0 {
            return Ok(());
        }
        #[cfg(unix)]
        // SAFETY: the map is file-backed and never written, so a dropped page reads back the same bytes.
        unsafe {
            self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, len)?;
        }
        Ok(())
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
