//! Maps files of weights into memory, read-only. The only place with `unsafe` outside of kernels.
//!
//! A file that another process truncates while it is mapped faults the reader (SIGBUS); checkpoints and packed weights are
//! replaced by renaming a new file into place, never by writing into one that is in use.

#![expect(unsafe_code, reason = "mapping a file and dropping its pages are unsafe by nature")]

use std::fs::{File, Metadata};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;

/// A whole file as bytes; unmapped when dropped.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    stamp: Stamp,
    map: Mmap,
}

/// What the file system says about a file: files that differ in it are different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) len: u64,
    /// `None` where the file system keeps no such time.
    pub(crate) modified: Option<SystemTime>,
    /// 0 where files have no numbers.
    pub(crate) inode: u64,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Stamp {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Stamp { len: metadata.len(), modified: metadata.modified().ok(), inode }
    }
}

impl MappedFile {
    /// Maps all of `path`. An empty file is an `UnexpectedEof` error.
    ///
    /// # Errors
    /// Those of the file system, and what is not a regular file.
    pub fn open(path: &Path) -> io::Result<MappedFile> {
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
        Ok(MappedFile { path: path.to_owned(), stamp: Stamp::of(&metadata), map })
    }

    /// What the file system said when the file was opened.
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Where the file was opened.
    pub fn path(&self) -> &Path {
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

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}
