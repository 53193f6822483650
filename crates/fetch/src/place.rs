//! When files get their names. Everything is brought together in a folder of our own and appears under its final name whole: a new folder by one
//! rename; in a folder that is there already (a mounted volume), file by file with the manifest last.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::FetchError;
use crate::manifest::{MANIFEST, Manifest};
use crate::names::RelativeName;
use crate::progress::Progress;

/// The working folder within a folder that was there already.
pub(crate) const INSIDE: &str = ".wharf-partial";
/// Held by the process that works on it.
pub(crate) const LOCK: &str = ".wharf-lock";

/// How often the lock of another process is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is at the place where the model goes.
pub(crate) enum Found {
    /// Nothing, or nothing but what an interrupted fetch has left.
    Free,
    /// A whole fetch.
    Whole(Manifest),
}

/// Where a model goes.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    target: PathBuf,
    /// Ours while we work: halves in `parts`, what is whole in `whole`.
    work: PathBuf,
    inside: bool,
}

/// The lock; dropped last.
pub(crate) struct Held {
    file: Option<File>,
}

impl Place {
    pub(crate) fn new(target: &Path) -> Result<Place, FetchError> {
        let absolute = std::path::absolute(target).map_err(FetchError::file("find", target))?;
        let inside = absolute.is_dir();
        let occupied = |why: &str| FetchError::Occupied { path: target.to_owned(), why: why.to_owned() };
        if !inside && absolute.symlink_metadata().is_ok() {
            return Err(occupied("is not a folder; choose another with -o"));
        }
        let work = match (inside, absolute.file_name()) {
            (true, _) => absolute.join(INSIDE),
            (false, Some(name)) => {
                let mut name = name.to_owned();
                name.push(".partial");
                absolute.with_file_name(name)
            }
            (false, None) => return Err(occupied("cannot be the name of a folder")),
        };
        Ok(Place { target: absolute, work, inside })
    }

    /// What is there. Other people's files are no place for ours.
    pub(crate) fn look(&self) -> Result<Found, FetchError> {
        if !self.inside {
            return Ok(Found::Free);
        }
        if let Some(manifest) = Manifest::read(&self.target)? {
            return Ok(Found::Whole(manifest));
        }
        let begun = self.work.join("parts").is_dir();
        let reading = || FetchError::file("read", &self.target);
        for entry in fs::read_dir(&self.target).map_err(reading())? {
            let name = entry.map_err(reading())?.file_name();
            // What a volume has of its own.
            let known = name == INSIDE || name == "lost+found" || name == LOCK;
            if !known && !begun {
                let why = format!(
                    "holds {} and no {MANIFEST}, so `wharf fetch` did not fill it; choose another folder with -o",
                    name.to_string_lossy()
                );
                return Err(FetchError::Occupied { path: self.target.clone(), why });
            }
        }
        Ok(Found::Free)
    }

    /// Makes the working folder and waits until nobody else works in it.
    pub(crate) async fn lock(&self, progress: &Progress) -> Result<Held, FetchError> {
        fs::create_dir_all(self.work.join("parts")).map_err(FetchError::file("create", &self.work))?;
        let path = self.work.join(LOCK);
        let opening = || FetchError::file("lock", &path);
        let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(opening())?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Held { file: Some(file) }),
                Err(TryLockError::WouldBlock) => {
                    progress.at(format!("waiting for another fetch into {}", self.target.display()));
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                // Some network file systems have no locks.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    tracing::warn!(path = %path.display(), "the file system has no locks; nobody else may fetch into it now");
                    return Ok(Held { file: None });
                }
                Err(TryLockError::Error(error)) => return Err(opening()(error)),
            }
        }
    }

    /// Whether the working folder is still the one that was locked: another process may have finished in the meantime.
    pub(crate) fn is_current(&self, held: &Held) -> bool {
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let ours = held.file.as_ref().and_then(|file| file.metadata().ok()).map(id);
        let there = fs::metadata(self.work.join(LOCK)).ok().map(id);
        self.inside == self.target.is_dir() && there.is_some() && (ours.is_none() || ours == there)
    }

    /// The half of a file, with its folder made.
    pub(crate) fn part(&self, name: &RelativeName) -> Result<PathBuf, FetchError> {
        let mut path = name.below(&self.work.join("parts")).into_os_string();
        path.push(".part");
        let path = PathBuf::from(path);
        make_parent(&path)?;
        let whole = name.below(&self.whole());
        // A run that was stopped between the last byte and the end.
        if !path.exists() && whole.is_file() {
            fs::rename(&whole, &path).map_err(FetchError::file("move", &whole))?;
        }
        Ok(path)
    }

    /// Where whole files are brought together.
    pub(crate) fn whole(&self) -> PathBuf {
        self.work.join("whole")
    }

    /// An empty folder for whole files.
    pub(crate) fn clear(&self) -> Result<PathBuf, FetchError> {
        let whole = self.whole();
        remove_folder(&whole)?;
        fs::create_dir_all(&whole).map_err(FetchError::file("create", &whole))?;
        Ok(whole)
    }

    /// Gives a whole file its name among the others.
    pub(crate) fn keep(&self, part: &Path, name: &RelativeName) -> Result<(), FetchError> {
        let to = name.below(&self.whole());
        make_parent(&to)?;
        fs::rename(part, &to).map_err(FetchError::file("move", part))
    }

    /// Everything appears under its final name; what an earlier version had and this one has not goes.
    pub(crate) fn finish(
        self,
        manifest: &Manifest,
        before: Option<&Manifest>,
        held: Held,
    ) -> Result<(), FetchError> {
        let whole = self.whole();
        write_synced(&whole.join(MANIFEST), manifest.text().as_bytes())?;
        sync_folders(&whole)?;
        if self.inside {
            self.finish_inside(manifest, before, &whole)?;
        } else {
            fs::rename(&whole, &self.target).map_err(FetchError::file("move", &whole))?;
            sync_folder(self.target.parent().unwrap_or(Path::new("/")))?;
        }
        drop(held);
        remove_folder(&self.work)
    }

    fn finish_inside(
        &self,
        manifest: &Manifest,
        before: Option<&Manifest>,
        whole: &Path,
    ) -> Result<(), FetchError> {
        // Without a manifest the folder is not whole, which is true from the first rename on.
        remove_file(&self.target.join(MANIFEST))?;
        for old in before.iter().flat_map(|before| &before.files) {
            if !manifest.files.iter().any(|file| file.path == old.path) {
                remove_file(&old.path.below(&self.target))?;
            }
        }
        for file in &manifest.files {
            let (from, to) = (file.path.below(whole), file.path.below(&self.target));
            make_parent(&to)?;
            fs::rename(&from, &to).map_err(FetchError::file("move", &from))?;
        }
        sync_folders(&self.target)?;
        let (from, to) = (whole.join(MANIFEST), self.target.join(MANIFEST));
        fs::rename(&from, &to).map_err(FetchError::file("move", &from))?;
        sync_folder(&self.target)
    }
}

fn make_parent(path: &Path) -> Result<(), FetchError> {
    path.parent()
        .map_or(Ok(()), |parent| fs::create_dir_all(parent).map_err(FetchError::file("create", parent)))
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), FetchError> {
    use io::Write as _;
    let writing = || FetchError::file("write", path);
    let mut file = File::create(path).map_err(writing())?;
    file.write_all(bytes).map_err(writing())?;
    file.sync_all().map_err(writing())
}

fn sync_folder(folder: &Path) -> Result<(), FetchError> {
    let file = File::open(folder).map_err(FetchError::file("open", folder))?;
    match file.sync_all() {
        // Some file systems keep folders safe without being asked, and refuse to be.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        outcome => outcome.map_err(FetchError::file("write", folder)),
    }
}

/// A folder and those in it: names must be as safe as bytes.
fn sync_folders(folder: &Path) -> Result<(), FetchError> {
    let reading = || FetchError::file("read", folder);
    for entry in fs::read_dir(folder).map_err(reading())? {
        let entry = entry.map_err(reading())?;
        if entry.file_type().map_err(reading())?.is_dir()
            && entry.file_name() != INSIDE
            && entry.file_name() != "lost+found"
        {
            sync_folders(&entry.path())?;
        }
    }
    sync_folder(folder)
}

fn remove_file(path: &Path) -> Result<(), FetchError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FetchError::file("remove", path)(error)),
        _ => Ok(()),
    }
}

fn remove_folder(path: &Path) -> Result<(), FetchError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FetchError::file("remove", path)(error)),
        _ => Ok(()),
    }
}
