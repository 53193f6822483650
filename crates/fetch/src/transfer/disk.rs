//! What touches the file itself, off the threads that wait for the network.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use wharf_api::Digest;

use crate::error::FetchError;
use crate::journal;

/// Bytes that are read for a digest between two chances to be stopped.
const HASH: usize = 32 << 20;

pub(super) async fn write(out: &Arc<File>, part: &Path, at: u64, bytes: Vec<u8>) -> Result<(), FetchError> {
    let out = Arc::clone(out);
    blocking(move || out.write_all_at(&bytes, at)).await.map_err(FetchError::file("write", part))
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(std::io::Error::other("the runtime is ending")),
    }
}

/// The digest of a file on the disk, which is what counts.
pub(crate) async fn hash(path: &Path, size: u64) -> Result<Digest, FetchError> {
    let reading = || FetchError::file("read", path);
    let file = Arc::new(File::open(path).map_err(reading())?);
    let (mut hash, mut at) = (Sha256::new(), 0);
    while at < size {
        let file = Arc::clone(&file);
        let length = usize::try_from(size - at).map_or(HASH, |left| left.min(HASH));
        let step = blocking(move || {
            let mut buffer = vec![0; length];
            file.read_exact_at(&mut buffer, at)?;
            hash.update(&buffer);
            Ok(hash)
        });
        hash = step.await.map_err(reading())?;
        at += length as u64;
    }
    Ok(Digest::new(hash.finalize().into()))
}

/// Forgets a half-written file.
pub(super) fn discard(part: &Path) -> Result<(), FetchError> {
    for path in [part.to_owned(), journal::path_of(part)] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(FetchError::file("remove", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
