//! Keeps the teacher's lists in a file of fixed records, so that later epochs and resumed runs do not compute them again.
//!
//! A record is a window: a mark that it is whole, then token ids, then log-probabilities. The mark is written last.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::distill::error::DistillError;

const MAGIC: [u8; 8] = *b"WHARFTK1";
const HEADER: u64 = 32;

/// Lists of the `k` likeliest tokens of each position.
pub(super) struct Cache {
    path: PathBuf,
    file: File,
    k: usize,
    length: usize,
}

impl Cache {
    /// Opens or creates a cache. One made with other settings is started anew: its lists belong to another run.
    pub(super) fn open(
        path: &Path,
        k: usize,
        length: usize,
        windows: usize,
        temperature: f32,
    ) -> Result<Cache, DistillError> {
        let mut header = MAGIC.to_vec();
        for number in [k as u64, length as u64] {
            header.extend(number.to_le_bytes());
        }
        header.extend(temperature.to_bits().to_le_bytes());
        header.extend(0u32.to_le_bytes());
        let fail = || DistillError::write(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(fail())?;
        let cache = Cache { path: path.to_owned(), file, k, length };
        let mut found = vec![0; HEADER as usize];
        let same = cache.file.read_exact_at(&mut found, 0).is_ok() && found == header;
        if !same {
            cache.file.set_len(0).map_err(fail())?;
            cache.file.write_all_at(&header, 0).map_err(fail())?;
        }
        // Records not yet written are holes, whose marks read as zero.
        cache.file.set_len(HEADER + windows as u64 * cache.record()).map_err(fail())?;
        Ok(cache)
    }

    pub(super) fn k(&self) -> usize {
        self.k
    }

    fn record(&self) -> u64 {
        8 + (self.length * self.k) as u64 * 8
    }

    fn at(&self, window: u32) -> u64 {
        HEADER + u64::from(window) * self.record()
    }

    /// Whether all of the windows are there.
    pub(super) fn has(&self, windows: &[u32]) -> Result<bool, DistillError> {
        for window in windows {
            let mut mark = [0; 8];
            self.file.read_exact_at(&mut mark, self.at(*window)).map_err(DistillError::read(&self.path))?;
            if mark != MAGIC {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Token ids and log-probabilities of the windows, one after the other.
    pub(super) fn load(&self, windows: &[u32]) -> Result<(Vec<u32>, Vec<f32>), DistillError> {
        let (mut ids, mut log_probs) = (Vec::new(), Vec::new());
        let mut bytes = vec![0; self.record() as usize - 8];
        for window in windows {
            self.file
                .read_exact_at(&mut bytes, self.at(*window) + 8)
                .map_err(DistillError::read(&self.path))?;
            let (first, second) = bytes.split_at(bytes.len() / 2);
            ids.extend(first.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)));
            log_probs.extend(second.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        }
        Ok((ids, log_probs))
    }

    pub(super) fn store(&self, windows: &[u32], ids: &[u32], log_probs: &[f32]) -> Result<(), DistillError> {
        let part = self.length * self.k;
        let write = |window: u32, ids: &[u32], log_probs: &[f32]| -> io::Result<()> {
            let bytes: Vec<u8> = ids
                .iter()
                .flat_map(|id| id.to_le_bytes())
                .chain(log_probs.iter().flat_map(|log| log.to_le_bytes()))
                .collect();
            self.file.write_all_at(&bytes, self.at(window) + 8)?;
            self.file.write_all_at(&MAGIC, self.at(window))
        };
        for ((window, ids), log_probs) in windows.iter().zip(ids.chunks(part)).zip(log_probs.chunks(part)) {
            write(*window, ids, log_probs).map_err(DistillError::write(&self.path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_found_by_the_next_and_not_under_other_settings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lists");
        let (ids, logs) = ([7u32, 8, 9, 10], [-1.0f32, -2.0, -3.0, -4.0]);
        let cache = Cache::open(&path, 2, 2, 5, 4.0).unwrap();
        assert!(!cache.has(&[3]).unwrap());
        cache.store(&[3], &ids, &logs).unwrap();
        drop(cache);
        let again = Cache::open(&path, 2, 2, 5, 4.0).unwrap();
        assert!(again.has(&[3]).unwrap() && !again.has(&[3, 4]).unwrap());
        assert_eq!(again.load(&[3]).unwrap(), (ids.to_vec(), logs.to_vec()));
        assert!(!Cache::open(&path, 2, 2, 5, 2.0).unwrap().has(&[3]).unwrap());
    }
}
