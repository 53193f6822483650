//! Where downloads live: `blobs/sha256/<digest>`, checked before they get that name and never changed after; and folders
//! that are filled once.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use crate::environment;

/// The user's cache folder.
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Creates the folder if need be.
    pub(crate) fn open() -> anyhow::Result<Cache> {
        let root = environment::cache().context("no cache folder: set WHARF_CACHE or HOME")?;
        Cache::at(root)
    }

    fn at(root: PathBuf) -> anyhow::Result<Cache> {
        fs::create_dir_all(root.join("blobs/sha256"))
            .with_context(|| format!("failed to create the cache folder {}", root.display()))?;
        Ok(Cache { root })
    }

    /// A folder of the cache for other things than blobs.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The blob with this digest, if it is there already.
    pub(crate) fn find(&self, sha256: &str) -> Option<PathBuf> {
        Some(self.blob_path(sha256)).filter(|blob| blob.is_file())
    }

    fn blob_path(&self, sha256: &str) -> PathBuf {
        self.root.join("blobs/sha256").join(sha256)
    }

    /// The blob with this digest. `obtain` is called when it is not there yet; it gets an empty folder and
    /// returns the file that it made in it. Two processes that want the same blob take turns.
    pub(crate) fn blob(
        &self,
        sha256: &str,
        obtain: impl FnOnce(&Path) -> anyhow::Result<PathBuf>,
    ) -> anyhow::Result<PathBuf> {
        if let Some(blob) = self.find(sha256) {
            return Ok(blob);
        }
        let blob = self.blob_path(sha256);
        let _lock = lock(&blob)?;
        // Another process may have made it while we waited.
        if blob.is_file() {
            return Ok(blob);
        }
        // Beside the blobs, so that the last step is a rename within one file system.
        let work = self.root.join(format!("partial-{sha256}"));
        remove_folder(&work)?;
        fs::create_dir_all(&work).with_context(|| format!("failed to create {}", work.display()))?;
        let made = obtain(&work)?;
        let found = digest(&made)?;
        if found != sha256 {
            remove_folder(&work)?;
            bail!("{} has SHA-256 {found}, expected {sha256}", made.display());
        }
        fs::rename(&made, &blob)
            .with_context(|| format!("failed to move {} into the cache", made.display()))?;
        remove_folder(&work)?;
        Ok(blob)
    }

    /// The folder `name` of the cache. `make` fills it unless it has been filled to the end before; after a failure it
    /// finds what it had left. Two processes that want the same folder take turns.
    pub(crate) fn filled(
        &self,
        name: &Path,
        make: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let folder = self.root.join(name);
        let complete = folder.join("complete");
        if complete.is_file() {
            return Ok(folder);
        }
        fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
        let _lock = lock(&folder)?;
        // Another process may have filled it while we waited.
        if complete.is_file() {
            return Ok(folder);
        }
        make(&folder)?;
        fs::write(&complete, "")
            .with_context(|| format!("failed to mark {} as complete", folder.display()))?;
        Ok(folder)
    }
}

/// Waits until no other process works on `path`; none does until the returned file is dropped.
fn lock(path: &Path) -> anyhow::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file =
        File::create(&name).with_context(|| format!("failed to create {}", Path::new(&name).display()))?;
    file.lock().with_context(|| format!("failed to lock {}", Path::new(&name).display()))?;
    Ok(file)
}

fn remove_folder(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("failed to remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// SHA-256 of a file, in hex.
fn digest(file: &Path) -> anyhow::Result<String> {
    let reading = || format!("failed to read {}", file.display());
    let mut source = File::open(file).with_context(reading)?;
    let bar = ProgressBar::new(source.metadata().with_context(reading)?.len()).with_style(
        ProgressStyle::with_template("verifying {bar:32} {bytes}/{total_bytes}")
            .expect("the template is well-formed"),
    );
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = source.read(&mut buffer).with_context(reading)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        bar.inc(n as u64);
    }
    bar.finish_and_clear();
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn a_blob_is_obtained_once() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned()).unwrap();
        let mut calls = 0;
        for _ in 0..2 {
            let blob = cache.blob(HELLO, |work| {
                calls += 1;
                let file = work.join("x");
                fs::write(&file, "hello")?;
                Ok(file)
            });
            assert_eq!(fs::read_to_string(blob.unwrap()).unwrap(), "hello");
        }
        assert_eq!(calls, 1);
    }

    #[test]
    fn a_wrong_digest_leaves_nothing_in_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned()).unwrap();
        let made = cache.blob(HELLO, |work| {
            fs::write(work.join("x"), "hullo")?;
            Ok(work.join("x"))
        });
        assert!(made.unwrap_err().to_string().contains("expected 2cf24"));
        assert!(!folder.path().join("blobs/sha256").join(HELLO).exists());
        assert!(!folder.path().join(format!("partial-{HELLO}")).exists());
    }

    #[test]
    fn two_who_want_the_same_folder_take_turns_and_it_is_filled_once() {
        let root = tempfile::tempdir().unwrap();
        let name = Path::new("python/some-py3.11");
        let calls = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let cache = Cache::at(root.path().to_owned()).unwrap();
                    let folder = cache.filled(name, |folder| {
                        calls.fetch_add(1, Ordering::SeqCst);
                        // Long enough for the other to come by.
                        std::thread::sleep(Duration::from_millis(300));
                        fs::write(folder.join("x"), "hello")?;
                        Ok(())
                    });
                    assert_eq!(fs::read_to_string(folder.unwrap().join("x")).unwrap(), "hello");
                });
            }
        });
        assert_eq!(calls.into_inner(), 1);
    }

    #[test]
    fn a_folder_whose_filling_failed_is_filled_again() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path().to_owned()).unwrap();
        let name = Path::new("x");
        assert!(cache.filled(name, |_| bail!("no network")).is_err());
        let mut again = false;
        cache
            .filled(name, |_| {
                again = true;
                Ok(())
            })
            .unwrap();
        assert!(again);
    }
}
