//! The file: read again when it has changed, replaced whole, by one writer at a time.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::machine::Machine;

/// Where the file of a library is.
pub(crate) fn beside(library: &Path) -> PathBuf {
    library.with_file_name("cuda.json")
}

/// Which version of the file was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    inode: u64,
    changed: (i64, i64),
    /// Of two changes within a tick of the clock the second may get the first one's inode.
    size: u64,
}

/// Which version of the file there is.
pub(crate) fn version(path: &Path) -> io::Result<Version> {
    let metadata = fs::metadata(path)?;
    Ok(Version {
        inode: metadata.ino(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        size: metadata.len(),
    })
}

/// Reads it.
pub(crate) fn read(path: &Path) -> io::Result<Machine> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Replaces it; whoever reads sees the one or the other.
pub(crate) fn write(path: &Path, machine: &Machine) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec_pretty(machine)?)?;
    fs::rename(&new, path)
}

/// Changes it, while nobody else does.
pub(crate) fn change<T>(path: &Path, change: impl FnOnce(&mut Machine) -> T) -> io::Result<T> {
    let lock = File::create(path.with_extension("lock"))?;
    lock.lock()?;
    let mut machine = read(path)?;
    let result = change(&mut machine);
    write(path, &machine)?;
    Ok(result)
}
