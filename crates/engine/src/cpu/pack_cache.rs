//! Decides whether the weights that an earlier start has packed are used again, and where those of this start are kept.
//!
//! A model has one file, named after the model's path, so that a changed model replaces what it was packed to before. No
//! fault of the cache fails a start: what cannot be used is packed again, what cannot be written is left out, and each is
//! a warning that names the file. Files that no start has used for a month go when another one is written.

mod file;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use wharf_kernels::{PackError, Team};

use super::loader::Source;
use super::share::Shard;

pub(super) use file::{PackReader, PackWriter};

/// Where packed weights are kept, and how much of them is looked at before they are used.
#[derive(Clone, Debug)]
pub struct PackCache {
    /// The folder; made when there is something to write.
    pub folder: PathBuf,
    /// What is checked.
    pub check: PackCheck,
}

/// What is checked of packed weights before they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackCheck {
    /// The header and the sizes.
    Sizes,
    /// Every byte, against the digest in the header.
    Contents,
}

/// Why packed weights are not used.
#[derive(Debug, thiserror::Error)]
pub enum PackFault {
    /// The file system refuses.
    #[error("failed to open it")]
    Open(#[source] io::Error),
    /// Somebody else's file.
    #[error("it does not hold packed weights")]
    Foreign,
    /// Another version's file.
    #[error("it is of format {found}, this program reads {expected}")]
    Version {
        /// Format and layout that it has.
        found: String,
        /// Format and layout that we write.
        expected: String,
    },
    /// The header is damaged.
    #[error("its header is damaged")]
    Header,
    /// Another model's, or of an earlier state of the model.
    #[error("it was packed from other weights: the model has changed since")]
    Stale,
    /// Cut off, or written to.
    #[error("it has {found} bytes instead of {expected}")]
    Length {
        /// Bytes that it has.
        found: u64,
        /// Bytes that its header says.
        expected: u64,
    },
    /// The payload is damaged.
    #[error("its contents do not have the digest that its header says: it is damaged")]
    Contents,
    /// It holds more or less than the model takes.
    #[error("what it holds is not what the model takes")]
    Sections,
    /// A matrix is not where it has to be.
    #[error("a matrix in it cannot be used")]
    Matrix(#[source] PackError),
}

/// Ending of packed weights.
const ENDING: &str = "wharfpack";
/// Ending of packed weights that are being written.
const UNFINISHED: &str = "wharfpack-tmp";
/// A file that no start has used for so long goes.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);
/// An unfinished file that nobody has written to for so long was left by a process that is gone.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The file of one model, and what it has to be made from.
pub(super) struct Place {
    path: PathBuf,
    identity: [u8; 32],
}

impl Place {
    pub(super) fn of(cache: &PackCache, source: Source<'_>) -> Place {
        let Source { config, weights, share, shard, team: _ } = source;
        let mut identity = Sha256::new();
        // Norms are kept with their offset.
        identity.update(config.norm_offset.to_le_bytes());
        identity.update([u8::from(config.tied_embeddings)]);
        weights.identify(&mut |bytes| identity.update(bytes));
        let files = weights.files();
        let mut part = if share.is_whole(config) { String::new() } else { share.name() };
        part += &shard.map(Shard::name).unwrap_or_default();
        identity.update(&part);
        let model = files.first().map_or(Path::new(""), PathBuf::as_path);
        let path = cache.folder.join(file_name(model, &part));
        Place { path, identity: identity.finalize().into() }
    }

    /// The packed weights of an earlier start, if there are any that may be used.
    pub(super) fn open(&self, check: PackCheck, team: &Team) -> Option<PackReader> {
        match PackReader::open(&self.path, &self.identity, check, team) {
            Ok(Some(pack)) => {
                self.mark_used();
                Some(pack)
            }
            Ok(None) => None,
            Err(fault) => {
                self.refuse(&fault);
                None
            }
        }
    }

    /// Says why the file is not used.
    pub(super) fn refuse(&self, fault: &PackFault) {
        let file = self.path.display();
        tracing::warn!(%file, reason = reasons(fault), "packed weights cannot be used; packing the model again");
    }

    /// Says that packed weights are in use.
    pub(super) fn used(&self) {
        tracing::info!(file = %self.path.display(), "using the packed weights of an earlier start");
    }

    /// Begins the file, beside what stands in its place. `None` when it cannot be written.
    pub(super) fn create(&self) -> Option<PackWriter> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let begun = fs::create_dir_all(folder).and_then(|()| {
            sweep(folder, &self.path, SystemTime::now());
            PackWriter::create(&self.path)
        });
        begun.map_err(|error| self.give_up(&error)).ok()
    }

    /// Puts the written file in its place.
    pub(super) fn commit(&self, writer: PackWriter, team: &Team) {
        match writer.commit(&self.path, &self.identity, team) {
            Ok(bytes) => tracing::info!(file = %self.path.display(), bytes, "packed weights are kept"),
            Err(error) => self.give_up(&error),
        }
    }

    /// Says why the weights are not kept.
    pub(super) fn give_up(&self, error: &io::Error) {
        let file = self.path.display();
        tracing::warn!(%file, reason = reasons(error), "failed to keep the packed weights; the next start packs again");
    }

    /// Only tidiness is at stake, and a cache that may be read and not written to is no fault.
    fn mark_used(&self) {
        let marked = File::open(&self.path).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = marked {
            tracing::debug!(file = %self.path.display(), %error, "the use of packed weights was not recorded");
        }
    }
}

/// An error and its causes on one line.
fn reasons(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Name of the file for a part of a model whose first file of weights is at `path`: something for people, and a digest for us.
fn file_name(path: &Path, part: &str) -> String {
    // A path that cannot be made absolute is as good a name.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let stem = absolute.file_stem().unwrap_or(OsStr::new("model")).to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let stem: String = stem.chars().take(64).map(plain).collect();
    let digest = Sha256::digest(absolute.as_os_str().as_encoded_bytes());
    let digest: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{stem}-{digest}{part}.{ENDING}")
}

/// Removes what nobody uses any more, but never `keep`.
fn sweep(folder: &Path, keep: &Path, now: SystemTime) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            let folder = folder.display();
            return tracing::warn!(%folder, %error, "failed to look for packed weights that nobody uses");
        }
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path != keep) {
        let oldest = match path.extension().and_then(OsStr::to_str) {
            Some(ENDING) => UNUSED,
            Some(UNFINISHED) => ABANDONED,
            Some(_) | None => continue,
        };
        // Gone in the meantime, or from the future: none of our business.
        let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| now.duration_since(modified).ok());
        if age.is_none_or(|age| age <= oldest) {
            continue;
        }
        let file = path.display();
        match fs::remove_file(&path) {
            Ok(()) => tracing::info!(%file, "removed packed weights that nobody uses"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%file, %error, "failed to remove packed weights that nobody uses"),
        }
    }
}

#[cfg(test)]
mod tests;
