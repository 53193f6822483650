//! Making, listing and taking back keys in a file: whole or not at all, one writer at a time, readable by the owner alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::document::{self, KeyDocument, KeyRecord, Unreadable};
use super::{KeysError, NewSecret};
use crate::limits::Limits;
use crate::principal::{Models, Priority};

/// What a new key may do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewKey {
    /// What people call it.
    pub name: String,
    /// Models that it may ask for.
    pub models: Models,
    /// Its own limits.
    pub limits: Limits,
    /// Who goes first when not everybody can.
    pub priority: Priority,
    /// Not accepted before.
    pub not_before: Option<Timestamp>,
    /// Not accepted from then on.
    pub expires: Option<Timestamp>,
}

/// A key that was just made.
#[derive(Debug)]
pub struct Created {
    /// The key: shown once, kept nowhere.
    pub secret: NewSecret,
    /// What is kept of it.
    pub record: KeyRecord,
}

impl NewKey {
    /// Makes the key and its record, and keeps neither.
    ///
    /// # Errors
    /// [`KeysError::Random`].
    pub fn make(self, now: Timestamp) -> Result<Created, KeysError> {
        let NewKey { name, models, limits, priority, not_before, expires } = self;
        let secret = NewSecret::generate()?;
        let record = KeyRecord {
            models,
            limits,
            priority,
            not_before,
            expires,
            created: Some(now),
            ..KeyRecord::of_secret(secret.reveal(), &name)
        };
        Ok(Created { secret, record })
    }
}

/// Makes a key and adds it to the file, which is made if need be.
///
/// A file of lines stays one as long as lines can say everything; otherwise it becomes a document.
///
/// # Errors
/// [`KeysError`]; the file is as it was.
pub fn create(path: &Path, new: NewKey, now: Timestamp) -> Result<Created, KeysError> {
    let file = Held::open(path)?;
    let created = new.make(now)?;
    let text = file.read()?.unwrap_or_default();
    let lines = !text.trim().is_empty() && !document::is_document(&text);
    let text = match created.record.as_line() {
        Some(line) if lines => format!("{}\n{line}\n", text.trim_end()),
        _ => {
            let mut keys = if text.trim().is_empty() { Vec::new() } else { file.parse(&text)? };
            keys.push(created.record.clone());
            file.write_document(keys)?
        }
    };
    file.replace(&text)?;
    Ok(created)
}

/// Every key of the file, those that were taken back included.
///
/// # Errors
/// [`KeysError::Read`], [`KeysError::Line`], [`KeysError::Document`].
pub fn list(path: &Path) -> Result<Vec<KeyRecord>, KeysError> {
    let text =
        fs::read_to_string(path).map_err(|source| KeysError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Takes back the key with this id, or the only one with this name. A document keeps it, marked; a line becomes a comment.
///
/// # Errors
/// [`KeysError::Unknown`], [`KeysError::Ambiguous`] and what reading and writing can fail with; the file is as it was.
pub fn revoke(path: &Path, id_or_name: &str) -> Result<KeyRecord, KeysError> {
    let file = Held::open(path)?;
    let Some(text) = file.read()? else {
        return Err(KeysError::Read { path: path.to_owned(), source: io::ErrorKind::NotFound.into() });
    };
    let mut keys = file.parse(&text)?;
    let at = find(path, &keys, id_or_name)?;
    keys[at].revoked = true;
    let revoked = keys[at].clone();
    let text = if document::is_document(&text) {
        file.write_document(keys)?
    } else {
        text.lines()
            .map(|line| match document::parse(line, "") {
                Ok(found) if found.first().is_some_and(|key| key.digest() == revoked.digest()) => {
                    // A key in clear is no more to be read from the comment.
                    format!("# revoked: sha256:{} {}\n", revoked.sha256(), revoked.name())
                }
                Ok(_) | Err(_) => format!("{line}\n"),
            })
            .collect()
    };
    file.replace(&text)?;
    Ok(revoked)
}

fn find(path: &Path, keys: &[KeyRecord], wanted: &str) -> Result<usize, KeysError> {
    if let Some(at) = keys.iter().position(|key| key.id() == wanted) {
        return Ok(at);
    }
    let named: Vec<usize> =
        (0..keys.len()).filter(|&i| keys[i].name() == wanted && !keys[i].revoked).collect();
    let (path, wanted) = (path.to_owned(), wanted.to_owned());
    match named[..] {
        [] => Err(KeysError::Unknown { path, wanted }),
        [at] => Ok(at),
        _ => {
            let ids = named.iter().map(|&i| keys[i].id().to_owned()).collect();
            Err(KeysError::Ambiguous { path, wanted, ids })
        }
    }
}

fn parse(path: &Path, text: &str) -> Result<Vec<KeyRecord>, KeysError> {
    let path = path.to_owned();
    document::parse(text, "").map_err(|wrong| match wrong {
        Unreadable::Line(line) => KeysError::Line { path, line },
        Unreadable::Document(problem) => KeysError::Document { path, problem },
    })
}

/// A file that nobody else changes until this is dropped.
struct Held {
    path: PathBuf,
    /// Holds the lock; beside the file, since the file itself is replaced.
    _lock: File,
}

impl Held {
    fn open(path: &Path) -> Result<Held, KeysError> {
        let failed = |source| KeysError::Write { path: path.to_owned(), source };
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(beside(path, "lock"))
            .map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(Held { path: path.to_owned(), _lock: lock })
    }

    /// The file's text; nothing if there is no file.
    fn read(&self) -> Result<Option<String>, KeysError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(KeysError::Read { path: self.path.clone(), source }),
        }
    }

    fn parse(&self, text: &str) -> Result<Vec<KeyRecord>, KeysError> {
        parse(&self.path, text)
    }

    fn write_document(&self, keys: Vec<KeyRecord>) -> Result<String, KeysError> {
        document::write(&KeyDocument { keys })
            .map_err(|problem| KeysError::Document { path: self.path.clone(), problem })
    }

    /// Gives the file a new text at once: readers see the old one or the new one.
    fn replace(&self, text: &str) -> Result<(), KeysError> {
        let failed = |source| KeysError::Write { path: self.path.clone(), source };
        let part = beside(&self.path, "new");
        let write = || {
            let mut file =
                OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&part)?;
            // One that a crash left behind keeps its mode, whatever was asked for.
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&part, &self.path)
        };
        write().map_err(failed)
    }
}

/// `keys.yaml` → `.keys.yaml.lock`: hidden, so that a folder of keys does not take it for one.
fn beside(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denied::Denied;
    use crate::keys::KeySource;
    use crate::moment::Moment;

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    fn named(name: &str) -> NewKey {
        NewKey { name: name.into(), ..NewKey::default() }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_key_works_from_its_making_to_its_taking_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.yaml");
        let made = create(&path, named("ci"), now()).unwrap();
        let other = create(&path, named("app"), now()).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(!fs::read_to_string(&path).unwrap().contains(made.secret.reveal()));

        let source = KeySource::new(&path);
        let check = |key: &NewSecret| source.read().unwrap().check_key(key.reveal(), Moment::now());
        assert_eq!(&*check(&made.secret).unwrap().name, "ci");
        revoke(&path, "ci").unwrap();
        assert_eq!(check(&made.secret), Err(Denied::RevokedKey));
        assert!(check(&other.secret).is_ok());
        let listed = list(&path).unwrap();
        assert_eq!(
            listed.iter().map(|key| (key.name(), key.revoked)).collect::<Vec<_>>(),
            [("ci", true), ("app", false)]
        );
        assert_eq!(listed[0].created, Some(now()));
    }

    #[test]
    fn a_folder_sees_neither_lock_nor_half_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        create(&dir.path().join("a"), named("a"), now()).unwrap();
        assert_eq!(KeySource::new(dir.path()).read().unwrap().len(), 1);
    }

    #[test]
    fn a_file_of_lines_stays_one_while_lines_suffice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        fs::write(&path, "# ours\nsk-clear\n").unwrap();
        let made = create(&path, named("ci"), now()).unwrap();
        let digest = made.record.sha256();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("# ours\nsk-clear\nsha256:{digest} ci\n"));

        let clear = list(&path).unwrap()[0].id().to_owned();
        revoke(&path, &clear).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("sk-clear") && text.contains("# revoked: sha256:"), "{text}");
        assert_eq!(list(&path).unwrap().len(), 1);

        let rich = NewKey { priority: Priority::Bulk, ..named("batch") };
        create(&path, rich, now()).unwrap();
        let keys = list(&path).unwrap();
        assert_eq!((keys[0].name(), keys[1].priority), ("ci", Priority::Bulk));
    }

    #[test]
    fn which_key_is_meant_must_be_clear() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        assert!(matches!(revoke(&path, "x"), Err(KeysError::Read { .. })));
        create(&path, named("twin"), now()).unwrap();
        create(&path, named("twin"), now()).unwrap();
        assert!(matches!(revoke(&path, "twin"), Err(KeysError::Ambiguous { ids, .. }) if ids.len() == 2));
        assert!(matches!(revoke(&path, "nobody"), Err(KeysError::Unknown { .. })));
        let first = list(&path).unwrap()[0].id().to_owned();
        assert_eq!(revoke(&path, &first).unwrap().id(), first);
        // The name of what is left is unique again.
        assert!(revoke(&path, "twin").is_ok());
    }

    #[test]
    fn writers_at_the_same_time_lose_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        std::thread::scope(|scope| {
            for i in 0..8 {
                let path = &path;
                scope.spawn(move || create(path, named(&format!("k{i}")), now()).unwrap());
            }
        });
        assert_eq!(list(&path).unwrap().len(), 8);
    }
}
