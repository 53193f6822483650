//! API keys: who has one, and whether the one that a request shows is among them.
//!
//! Only digests are kept. A key that we issue is 256 random bits, so one round of SHA-256 hides it as well as any slow hash would.
//!
//! The lookup is a hash table's. Its time tells nothing of use: the table's own hash is keyed at random in each process and taken over the
//! whole digest, so neither a guess that shares bits with a known digest nor one that shares bits with another guess lands near it; and
//! digests that do meet are compared in constant time. Looking at every key instead would take longer with each key and tell no less.

mod document;
mod generate;
mod source;
mod store;
mod watch;

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::{fmt, io};

use http::HeaderMap;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::denied::Denied;
use crate::moment::Moment;
use crate::principal::Principal;

pub use document::{KeyDocument, KeyRecord};
pub use generate::{NewSecret, checksum_fits};
pub use source::{KeySource, from_entries};
pub use store::{Created, NewKey, create, list, revoke};
pub use watch::WatchedKeys;

/// Everybody, where no keys are asked for.
static ANONYMOUS: LazyLock<Arc<Principal>> = LazyLock::new(|| Arc::new(Principal::anonymous()));

/// The keys that may call.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    /// Everybody may call: no keys were ever asked for.
    open: bool,
    keys: HashMap<Sha, Known>,
}

/// What a digest stands for.
#[derive(Clone, Debug)]
struct Known {
    principal: Arc<Principal>,
    not_before_ms: Option<u64>,
    expires_ms: Option<u64>,
    revoked: bool,
}

impl Known {
    /// Whether the key may be used now.
    fn holds(&self, now: Moment) -> Result<(), Denied> {
        let Known { principal: _, not_before_ms, expires_ms, revoked } = self;
        if *revoked {
            Err(Denied::RevokedKey)
        } else if expires_ms.is_some_and(|end| now.unix_ms >= end) {
            Err(Denied::ExpiredKey)
        } else if not_before_ms.is_some_and(|begin| now.unix_ms < begin) {
            Err(Denied::EarlyKey)
        } else {
            Ok(())
        }
    }
}

/// Why keys cannot be read, made or taken back.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file or folder cannot be read.
    #[error("failed to read the API keys in {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is no key.
    #[error("failed to read the API keys in {path}: line {line} is not 64 hex digits after sha256:")]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A document does not have the form that keys have.
    #[error("failed to read the API keys in {path}: {problem}")]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// The same key, or two of one name for logs, with different rights.
    #[error("failed to read the API keys in {path}: {id} is there twice")]
    Twice {
        /// The file that has the second.
        path: PathBuf,
        /// The key's id.
        id: String,
    },
    /// No key in the file would open the server to everybody, which nobody means who names a file.
    #[error("failed to read the API keys in {path}: it has no key")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("failed to write the API keys in {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No key has this id or name.
    #[error("no API key in {path} has the id or the name {wanted:?}")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: String,
    },
    /// Several keys have this name.
    #[error("several API keys in {path} have the name {wanted:?}; give one of their ids: {}", ids.join(", "))]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: String,
        /// Those that have it.
        ids: Vec<String>,
    },
    /// The operating system gave no random numbers.
    #[error("failed to make an API key: the system has no random numbers")]
    Random,
}

impl KeySet {
    /// No keys are asked for: everybody may call, and all of them are one caller.
    pub fn open() -> KeySet {
        KeySet { open: true, keys: HashMap::new() }
    }

    /// Keys of records. No record at all lets nobody call.
    ///
    /// # Errors
    /// The id of a record that is there twice.
    pub fn closed(records: impl IntoIterator<Item = KeyRecord>) -> Result<KeySet, String> {
        let mut set = KeySet::default();
        let mut ids = std::collections::HashSet::new();
        for record in records {
            let id = record.id().to_owned();
            let twice = !ids.insert(id.clone()) | set.keys.contains_key(&record.digest());
            if twice {
                return Err(id);
            }
            set.insert(&record);
        }
        Ok(set)
    }

    /// Reads a file or folder, if any, and adds the single key, if any; with neither, everybody may call.
    ///
    /// # Errors
    /// [`KeysError`]; [`KeysError::Empty`] if a file was named and has no key.
    pub fn load(source: Option<&KeySource>, single: Option<&str>) -> Result<KeySet, KeysError> {
        let mut set = match source {
            None if single.is_none() => return Ok(KeySet::open()),
            None => KeySet::default(),
            Some(source) => {
                let set = source.read()?;
                if set.is_empty() {
                    return Err(KeysError::Empty { path: source.path().to_owned() });
                }
                set
            }
        };
        if let Some(key) = single {
            set.insert(&KeyRecord::of_secret(key.trim(), ""));
        }
        Ok(set)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether everybody may call.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Accepts `Authorization: Bearer <key>`.
    ///
    /// # Errors
    /// [`Denied`], for one of the reasons that keys have.
    pub fn check(&self, headers: &HeaderMap, now: Moment) -> Result<Arc<Principal>, Denied> {
        if self.open {
            return Ok(Arc::clone(&ANONYMOUS));
        }
        self.check_key(bearer(headers)?, now)
    }

    /// Accepts a key that was found elsewhere than in the usual header.
    ///
    /// # Errors
    /// As [`KeySet::check`].
    pub fn check_key(&self, key: &str, now: Moment) -> Result<Arc<Principal>, Denied> {
        if self.open {
            return Ok(Arc::clone(&ANONYMOUS));
        }
        let Some(known) = self.keys.get(&Sha::of(key)) else {
            return Err(if checksum_fits(key) == Some(false) {
                Denied::MistypedKey
            } else {
                Denied::UnknownKey
            });
        };
        known.holds(now).map(|()| Arc::clone(&known.principal))
    }

    /// All keys in no order, those that may not call now with the reason. Nothing of it is secret.
    pub fn all(&self, now: Moment) -> impl Iterator<Item = (&Principal, Result<(), Denied>)> {
        self.keys.values().map(move |known| (&*known.principal, known.holds(now)))
    }

    /// The same key again replaces nothing: the first has the rights that somebody wrote down.
    fn insert(&mut self, record: &KeyRecord) {
        let principal = Principal {
            id: format!("key:{}", record.id()).into(),
            name: record.name().into(),
            models: record.models.clone(),
            limits: record.limits,
            priority: record.priority,
        };
        let ms = |time: jiff::Timestamp| u64::try_from(time.as_millisecond()).unwrap_or(0);
        self.keys.entry(record.digest()).or_insert_with(|| Known {
            principal: Arc::new(principal),
            not_before_ms: record.not_before.map(ms),
            expires_ms: record.expires.map(ms),
            revoked: record.revoked,
        });
    }
}

/// What follows `Bearer` in the header.
///
/// # Errors
/// [`Denied::NoKey`]; [`Denied::UnknownKey`] for another scheme.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Denied> {
    let header = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, key) = header.and_then(|value| value.trim().split_once(' ')).ok_or(Denied::NoKey)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(key.trim()) } else { Err(Denied::UnknownKey) }
}

/// A SHA-256 digest, compared in constant time.
#[derive(Clone, Copy)]
pub(crate) struct Sha([u8; 32]);

impl Sha {
    pub(crate) fn of(text: &str) -> Sha {
        Sha(Sha256::digest(text.as_bytes()).into())
    }

    /// Reads 64 hex digits.
    pub(crate) fn from_hex(digits: &str) -> Option<Sha> {
        let digits = digits.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |b: u8| (b as char).to_digit(16);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Some(Sha(bytes))
    }
}

impl fmt::Display for Sha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Sha {
    fn eq(&self, other: &Sha) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Sha {}

impl Hash for Sha {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

#[cfg(test)]
mod tests;
