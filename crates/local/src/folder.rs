//! The folder of one supervisor: who holds it, what is where, and what is remembered from one run to the next.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};

/// Longest path of a socket (`sun_path` of Linux, without the final zero).
const LONGEST_SOCKET: usize = 107;

/// A state folder that this process holds.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// Locked for as long as the supervisor lives; the system frees it whatever ends the process.
    _lock: File,
}

/// Why a state folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another supervisor has it.
    #[error("{} is in use by `wharf up` with process id {pid}: give another --state, or stop it with `wharf down --state {}`", root.display(), root.display())]
    Taken {
        /// The folder.
        root: PathBuf,
        /// Of the process that holds it.
        pid: String,
    },
    /// Something in it cannot be made, read or written.
    #[error("failed to {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The path is too long for a socket.
    #[error("{} is too long for the control socket, by {over} bytes: give a shorter --state", path.display())]
    TooLong {
        /// The socket.
        path: PathBuf,
        /// By so many bytes.
        over: usize,
    },
}

impl Folder {
    /// Takes the folder, which is made if it is not there. Only its owner may look into it.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn take(root: &Path) -> Result<Folder, FolderError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| FolderError::Io { what, path, source }
        };
        std::fs::create_dir_all(root).map_err(io("make the folder", root))?;
        std::fs::set_permissions(root, Permissions::from_mode(0o700)).map_err(io("protect", root))?;
        let root = root.canonicalize().map_err(io("find", root))?;
        let socket = socket(&root);
        let length = socket.as_os_str().len();
        if length > LONGEST_SOCKET {
            return Err(FolderError::TooLong { path: socket, over: length - LONGEST_SOCKET });
        }
        let path = root.join("lock");
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io("open", &path))?;
        if lock.try_lock().is_err() {
            let mut pid = String::new();
            lock.read_to_string(&mut pid).map_err(io("read", &path))?;
            return Err(FolderError::Taken { root, pid: pid.trim().to_owned() });
        }
        let written = lock
            .set_len(0)
            .and_then(|()| lock.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(lock, "{}", std::process::id()));
        written.map_err(io("write", &path))?;
        Ok(Folder { root, _lock: lock })
    }

    /// Whether a supervisor holds the folder.
    pub fn is_taken(root: &Path) -> bool {
        File::open(root.join("lock")).is_ok_and(|lock| lock.try_lock_shared().is_err())
    }

    /// Where everything is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The socket that `wharf ps` and the others talk to.
    pub(crate) fn socket(&self) -> PathBuf {
        socket(&self.root)
    }

    /// The log of a replica.
    pub(crate) fn log(&self, replica: &str) -> PathBuf {
        self.root.join("logs").join(format!("{replica}.log"))
    }

    /// Where a replica's configuration is written.
    pub(crate) fn config(&self, replica: &str) -> PathBuf {
        self.root.join("run").join(replica)
    }

    /// What was remembered under a name; none if there is nothing, or nothing that can be read.
    pub(crate) fn recall<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let path = self.root.join(name);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "failed to read what was remembered; beginning anew");
                return None;
            }
        };
        match serde_json::from_slice(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "what was remembered cannot be understood; beginning anew");
                None
            }
        }
    }

    /// Remembers something, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn remember<T: Serialize>(&self, name: &str, value: &T) -> Result<(), FolderError> {
        let (path, partial) = (self.root.join(name), self.root.join(format!("{name}.part")));
        let text = serde_json::to_vec_pretty(value).map_err(io::Error::other);
        text.and_then(|text| std::fs::write(&partial, text))
            .and_then(|()| std::fs::rename(&partial, &path))
            .map_err(|source| FolderError::Io { what: "write", path, source })
    }
}

/// The control socket in a state folder.
pub(crate) fn socket(root: &Path) -> PathBuf {
    root.join("control.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_supervisor_is_told_who_has_the_folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::take(root.path()).unwrap();
        let error = Folder::take(root.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process id {}", std::process::id())), "{error}");
        drop(folder);
        Folder::take(root.path()).unwrap();
    }

    #[test]
    fn what_is_remembered_comes_back_and_nonsense_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::take(root.path()).unwrap();
        assert_eq!(folder.recall::<Vec<u32>>("numbers.json"), None);
        folder.remember("numbers.json", &vec![1u32, 2]).unwrap();
        assert_eq!(folder.recall::<Vec<u32>>("numbers.json"), Some(vec![1, 2]));
        std::fs::write(folder.root().join("numbers.json"), "{").unwrap();
        assert_eq!(folder.recall::<Vec<u32>>("numbers.json"), None);
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_at_once() {
        let root = tempfile::tempdir().unwrap();
        let error = Folder::take(&root.path().join("x".repeat(120))).unwrap_err();
        assert!(matches!(error, FolderError::TooLong { .. }), "{error}");
    }
}
