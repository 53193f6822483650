//! Checkpoints in memory that remember what was read of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use wharf_plan::ModelFiles;
use wharf_plan::header::FileInfo;

#[derive(Default)]
pub(crate) struct Files {
    files: BTreeMap<String, Vec<u8>>,
    pub(crate) read: RefCell<Vec<(String, Range<u64>)>>,
}

impl Files {
    pub(crate) fn of(files: &[(&str, &[u8])]) -> Files {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        Files { files, read: RefCell::default() }
    }

    /// The last byte that was read of a file.
    pub(crate) fn read_to(&self, name: &str) -> u64 {
        let read = self.read.borrow();
        read.iter().filter(|(file, _)| file == name).map(|(_, range)| range.end).max().unwrap_or(0)
    }
}

impl ModelFiles for Files {
    fn files(&self) -> io::Result<Vec<FileInfo>> {
        let info =
            |(name, bytes): (&String, &Vec<u8>)| FileInfo { name: name.clone(), bytes: bytes.len() as u64 };
        Ok(self.files.iter().map(info).collect())
    }

    fn read(&self, name: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.read.borrow_mut().push((name.to_owned(), range.clone()));
        Ok(self.files[name][range.start as usize..range.end as usize].to_vec())
    }
}
