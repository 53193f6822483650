//! Where keys are kept: one file, or a folder with a file for each entry of a Secret.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::document::{Unreadable, parse};
use super::{KeySet, KeysError};

/// The largest file that can be a list of keys.
const MAX_BYTES: u64 = 16 << 20;

/// A file of keys, or a folder of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySource(PathBuf);

/// What tells one state of a source from another without parsing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Name of the entry, when it was written, and what it says.
    files: Vec<(String, Option<SystemTime>, String)>,
}

impl KeySource {
    /// A file, or the folder at which a Secret is mounted.
    pub fn new(path: impl Into<PathBuf>) -> KeySource {
        KeySource(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads all keys; there may be none.
    ///
    /// # Errors
    /// [`KeysError`]: every file must be readable and right.
    pub fn read(&self) -> Result<KeySet, KeysError> {
        self.parse(&self.contents()?)
    }

    /// The text of every file.
    pub(crate) fn contents(&self) -> Result<Contents, KeysError> {
        let failed = |source| KeysError::Read { path: self.0.clone(), source };
        let meta = fs::metadata(&self.0).map_err(failed)?;
        if !meta.is_dir() {
            return Ok(Contents { files: vec![read_file(&self.0, String::new())?] });
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // A mounted Secret swaps `..data`, a link to a hidden folder, and its entries are links through it.
            if !name.starts_with('.') && entry.path().is_file() {
                files.push(read_file(&entry.path(), name)?);
            }
        }
        files.sort();
        Ok(Contents { files })
    }

    pub(crate) fn parse(&self, contents: &Contents) -> Result<KeySet, KeysError> {
        from_entries(&self.0, contents.files.iter().map(|(name, _, text)| (name.as_str(), text.as_str())))
    }
}

/// Keys of named texts, such as the entries of a Secret that was read from the API server; `place` is what errors call it.
///
/// # Errors
/// [`KeysError::Line`], [`KeysError::Document`], [`KeysError::Twice`].
pub fn from_entries<'a>(
    place: &Path,
    entries: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<KeySet, KeysError> {
    let mut records = Vec::new();
    for (name, text) in entries {
        let path = if name.is_empty() { place.to_owned() } else { place.join(name) };
        records.extend(parse(text, name).map_err(|wrong| match wrong {
            Unreadable::Line(line) => KeysError::Line { path, line },
            Unreadable::Document(problem) => KeysError::Document { path, problem },
        })?);
    }
    KeySet::closed(records).map_err(|id| KeysError::Twice { path: place.to_owned(), id })
}

fn read_file(path: &Path, name: String) -> Result<(String, Option<SystemTime>, String), KeysError> {
    let failed = |source| KeysError::Read { path: path.to_owned(), source };
    let meta = fs::metadata(path).map_err(failed)?;
    if meta.len() > MAX_BYTES {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "more than 16 MiB")));
    }
    Ok((name, meta.modified().ok(), fs::read_to_string(path).map_err(failed)?))
}
