//! Where downloads live: `blobs/sha256/<digest>`, checked before they get that name and never changed after.

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

    /// The blob with this digest. `obtain` is called when it is not there yet; it gets an empty folder and
    /// returns the file that it made in it. Two processes that want the same blob take turns.
    pub(crate) fn blob(
        &self,
        sha256: &str,
        obtain: impl FnOnce(&Path) -> anyhow::Result<PathBuf>,
    ) -> anyhow::Result<PathBuf> {
        let blob = self.root.join("blobs/sha256").join(sha256);
        if blob.is_file() {
            return Ok(blob);
        }
        let lock = blob.with_extension("lock");
        let lock = File::create(&lock).with_context(|| format!("failed to create {}", lock.display()))?;
        lock.lock().context("failed to lock the cache")?;
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
}
