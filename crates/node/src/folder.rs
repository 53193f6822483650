//! Hears of changes in a folder (inotify): kubelet says that it has started by making its socket anew.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use tokio::io::unix::AsyncFd;

/// A folder that is watched.
pub(crate) struct Folder {
    changes: AsyncFd<OwnedFd>,
}

impl Folder {
    /// Watches it for files that come and go.
    pub(crate) fn watch(path: &Path) -> io::Result<Folder> {
        let changes = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let wanted = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR;
        add_watch(&changes, path, wanted)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that may close what they hold; OwnedFd cannot"
        )]
        let changes = AsyncFd::new(changes)?;
        Ok(Folder { changes })
    }

    /// Returns when something has changed since the last time. Several changes are one.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.changes.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = Reader::new(ready.get_inner(), &mut buffer);
            let mut any = false;
            loop {
                match reader.next() {
                    Ok(_) => any = true,
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
            if any {
                return Ok(());
            }
        }
    }
}

/// Which file it is that has a name: a socket that was made anew is another, even where the number of its inode is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

/// Which file has this name, if one has.
pub(crate) fn identity(path: &Path) -> Option<Identity> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some(Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_made_anew_is_heard_of_and_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubelet.sock");
        let mut watched = Folder::watch(folder.path()).unwrap();
        std::fs::write(&path, "").unwrap();
        watched.changed().await.unwrap();
        let first = identity(&path).unwrap();
        assert_eq!(identity(&path), Some(first));
        std::fs::remove_file(&path).unwrap();
        watched.changed().await.unwrap();
        assert_eq!(identity(&path), None);
        std::fs::write(&path, "").unwrap();
        watched.changed().await.unwrap();
        assert_ne!(identity(&path), Some(first));
    }
}
