//! What can go wrong, what was being done to what, and what to do next.

use std::io;
use std::path::PathBuf;

use wharf_api::Digest;

use crate::http::HttpError;
use crate::policy::PolicyError;

/// Why a source could not be fetched or read.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The source, or a host on the way to it, is not allowed.
    #[error("{source_} was refused")]
    Refused {
        /// The source.
        source_: String,
        /// Why.
        source: PolicyError,
    },
    /// A setting cannot be used.
    #[error("failed to read {what}: {why}")]
    Setting {
        /// The flag or variable.
        what: String,
        /// Why.
        why: String,
    },
    /// What was asked for is not unique or not there; the text says what there is.
    #[error("{0}")]
    Choice(String),
    /// The folder holds something else.
    #[error("{} {why}", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What is in it, and what to do.
        why: String,
    },
    /// A server or an archive gave a file a name that cannot be used.
    #[error("the name {name:?} was refused: {why}")]
    BadName {
        /// As given.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// An entry of an archive that has no place in a model.
    #[error("the archive's entry {name:?} was refused: {why}")]
    BadEntry {
        /// Its name.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// More bytes than allowed.
    #[error("{what} is larger than the limit of {limit} bytes (--max-bytes)")]
    TooLarge {
        /// What was measured.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A request failed, and another one would too.
    #[error("failed to {doing}{}", hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default())]
    Request {
        /// What the request was for.
        doing: String,
        /// What to do about it.
        hint: Option<String>,
        /// What happened.
        source: Box<HttpError>,
    },
    /// An object store did not answer as hoped.
    #[error("failed to {doing}{}: {why}", hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default())]
    Store {
        /// What the request was for.
        doing: String,
        /// What to do about it.
        hint: Option<String>,
        /// What happened.
        why: String,
    },
    /// An answer that does not follow its protocol.
    #[error("failed to read {what}: {why}")]
    Answer {
        /// Which answer.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The bytes are not those that were promised.
    #[error("{what} has the digest {found}, but {expected} was expected")]
    Corrupt {
        /// The file or folder.
        what: String,
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// It changed again and again while it was read.
    #[error("{0} keeps changing on the server; nothing was kept of it")]
    Unstable(String),
    /// The disk is full.
    #[error("no space is left for {}; free some and run the same command again: it goes on from here", path.display())]
    DiskFull {
        /// The file that was being written.
        path: PathBuf,
        /// As the system says it.
        source: io::Error,
    },
    /// A file of this machine could not be used.
    #[error("failed to {doing} {}", path.display())]
    File {
        /// The verb.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl FetchError {
    /// Whether the user's input is the reason, and no other try could help.
    pub fn is_bad_input(&self) -> bool {
        match self {
            FetchError::Refused { .. }
            | FetchError::Setting { .. }
            | FetchError::Choice(_)
            | FetchError::Occupied { .. } => true,
            FetchError::Request { source, .. } => source.is_refused(),
            FetchError::BadName { .. }
            | FetchError::BadEntry { .. }
            | FetchError::TooLarge { .. }
            | FetchError::Store { .. }
            | FetchError::Answer { .. }
            | FetchError::Corrupt { .. }
            | FetchError::Unstable(_)
            | FetchError::DiskFull { .. }
            | FetchError::File { .. } => false,
        }
    }

    /// For `map_err` after work on a file.
    pub(crate) fn file(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> FetchError {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                FetchError::DiskFull { path, source }
            }
            _ => FetchError::File { doing, path, source },
        }
    }

    pub(crate) fn answer(what: impl Into<String>, why: impl ToString) -> FetchError {
        FetchError::Answer { what: what.into(), why: why.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_failures_and_says_that_it_goes_on() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let error = FetchError::file("write", "/x/a.part")(kind.into());
            assert!(error.to_string().contains("it goes on from here"), "{error}");
            assert!(!error.is_bad_input());
        }
        let error = FetchError::file("write", "/x/a.part")(io::ErrorKind::PermissionDenied.into());
        assert_eq!(error.to_string(), "failed to write /x/a.part");
    }
}
