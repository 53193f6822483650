//! Which bytes of a half-written file are there: a list beside it that survives a kill at any moment.
//!
//! The first line says which version of the file they belong to, each further line is a range that is on the disk. Lines are only ever
//! appended, and only after the bytes; a last line that was cut off is not believed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wharf_api::Digest;

/// Which version of which file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) source: String,
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) sha256: Option<Digest>,
    /// ETag, modification time, commit: whatever changes with the bytes.
    pub(crate) tag: Option<String>,
}

impl Identity {
    /// Without anything that changes with the bytes, nobody knows whether old bytes belong to the file.
    pub(crate) fn is_certain(&self) -> bool {
        self.sha256.is_some() || self.tag.is_some()
    }
}

/// Ranges without overlap, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.0.push(range);
        self.0.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(self.0.len());
        for range in self.0.drain(..) {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        self.0 = merged;
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// What is missing of `0..size`, in pieces of `chunk` at most.
    pub(crate) fn missing(&self, size: u64, chunk: u64) -> Vec<Range<u64>> {
        let mut pieces = Vec::new();
        let mut cut = |mut gap: Range<u64>| {
            while gap.start < gap.end {
                let end = gap.end.min(gap.start + chunk);
                pieces.push(gap.start..end);
                gap.start = end;
            }
        };
        let mut at = 0;
        for range in &self.0 {
            cut(at..range.start.min(size));
            at = range.end;
        }
        cut(at.min(size)..size);
        pieces
    }
}

/// What an earlier run has left of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct There {
    pub(crate) ranges: Ranges,
    /// The digest of all bytes, if they were all there and have been read since.
    pub(crate) sha256: Option<Digest>,
}

/// An open journal.
pub(crate) struct Journal {
    file: File,
}

/// Where the journal of a half-written file lies.
pub(crate) fn path_of(part: &Path) -> PathBuf {
    let mut path = part.as_os_str().to_owned();
    path.push(".journal");
    path.into()
}

impl Journal {
    /// Goes on with `part` if its journal says that it belongs to this very version; begins anew otherwise.
    pub(crate) fn open(part: &Path, identity: &Identity) -> io::Result<(Journal, There)> {
        let path = path_of(part);
        if let Some(there) = read(&path, part, identity) {
            // A line that was cut off must not be lengthened by the next one.
            let mut journal = Journal { file: OpenOptions::new().append(true).open(&path)? };
            journal.file.write_all(b"\n")?;
            return Ok((journal, there));
        }
        File::create(part)?;
        let mut file = File::create(&path)?;
        let mut line = serde_json::to_vec(identity)?;
        line.push(b'\n');
        file.write_all(&line)?;
        Ok((Journal { file }, There::default()))
    }

    /// These bytes are on the disk.
    pub(crate) fn record(&mut self, range: &Range<u64>) -> io::Result<()> {
        self.file.write_all(format!("{} {};\n", range.start, range.end).as_bytes())
    }

    /// All bytes are on the disk, and this is their digest.
    pub(crate) fn seal(&mut self, sha256: Digest) -> io::Result<()> {
        self.file.write_all(format!("whole {};\n", sha256.hex()).as_bytes())
    }
}

/// `None` when the bytes that are there cannot be gone on with.
fn read(path: &Path, part: &Path, identity: &Identity) -> Option<There> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    let found: Identity = serde_json::from_str(lines.next()?).ok()?;
    if found != *identity || !identity.is_certain() {
        return None;
    }
    let length = std::fs::metadata(part).ok()?.len();
    let mut there = There::default();
    for line in lines {
        let range = line.strip_suffix(';').and_then(|line| line.split_once(' '));
        let Some((start, end)) = range else { continue };
        if start == "whole" {
            there.sha256 = Digest::from_hex(end);
        }
        let (Ok(start), Ok(end)) = (start.parse::<u64>(), end.parse::<u64>()) else { continue };
        if start < end && end <= identity.size.min(length) {
            there.ranges.insert(start..end);
        }
    }
    there.sha256 = there.sha256.filter(|_| there.ranges.bytes() == identity.size && length == identity.size);
    Some(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[Range<u64>]) -> Ranges {
        let mut ranges = Ranges::default();
        list.iter().for_each(|range| ranges.insert(range.clone()));
        ranges
    }

    fn identity(tag: &str) -> Identity {
        Identity { source: "s".into(), name: "a".into(), size: 100, sha256: None, tag: Some(tag.into()) }
    }

    #[test]
    fn what_is_missing_is_cut_into_pieces() {
        let there = ranges(&[60..70, 10..20, 20..30]);
        assert_eq!(there, Ranges(vec![10..30, 60..70]));
        assert_eq!(there.bytes(), 30);
        assert_eq!(there.missing(100, 20), [0..10, 30..50, 50..60, 70..90, 90..100]);
        assert_eq!(ranges(&[0..60, 60..100]).missing(100, 20), []);
        assert_eq!(Ranges::default().missing(0, 20), []);
        assert_eq!(ranges(&[0..30, 30..50]).missing(40, 20), []);
    }

    #[test]
    fn a_journal_is_gone_on_with_after_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("a.part");
        let (mut journal, there) = Journal::open(&part, &identity("x")).unwrap();
        assert_eq!(there, There::default());
        std::fs::write(&part, [1; 50]).unwrap();
        journal.record(&(0..10)).unwrap();
        journal.record(&(30..50)).unwrap();
        // Beyond what is on the disk.
        journal.record(&(50..60)).unwrap();
        // A line that the kill has cut off, which would be wrong if it were believed.
        journal.file.write_all(b"10 3").unwrap();
        drop(journal);
        let (mut journal, there) = Journal::open(&part, &identity("x")).unwrap();
        assert_eq!(there.ranges, ranges(&[0..10, 30..50]));
        journal.record(&(10..12)).unwrap();
        let (_, there) = Journal::open(&part, &identity("x")).unwrap();
        assert_eq!(there.ranges, ranges(&[0..12, 30..50]));
    }

    #[test]
    fn a_digest_is_believed_only_of_a_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("a.part");
        let (mut journal, _) = Journal::open(&part, &identity("x")).unwrap();
        std::fs::write(&part, [1; 100]).unwrap();
        journal.record(&(0..60)).unwrap();
        journal.seal(Digest::new([3; 32])).unwrap();
        let (mut journal, there) = Journal::open(&part, &identity("x")).unwrap();
        assert_eq!(there.sha256, None);
        journal.record(&(60..100)).unwrap();
        let (_, there) = Journal::open(&part, &identity("x")).unwrap();
        assert_eq!(there.sha256, Some(Digest::new([3; 32])));
    }

    #[test]
    fn another_version_starts_over_and_so_does_one_that_nobody_can_tell() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("a.part");
        for other in [identity("y"), Identity { tag: None, ..identity("x") }] {
            let (mut journal, _) = Journal::open(&part, &identity("x")).unwrap();
            std::fs::write(&part, [1; 50]).unwrap();
            journal.record(&(0..50)).unwrap();
            let (mut journal, there) = Journal::open(&part, &other).unwrap();
            assert_eq!(there, There::default());
            assert_eq!(std::fs::metadata(&part).unwrap().len(), 0);
            std::fs::write(&part, [1; 50]).unwrap();
            journal.record(&(0..50)).unwrap();
            let (_, there) = Journal::open(&part, &other).unwrap();
            assert_eq!(there.ranges.bytes(), if other.is_certain() { 50 } else { 0 });
        }
    }
}
