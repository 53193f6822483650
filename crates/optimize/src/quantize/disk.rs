//! Decides whether what was written is on the disk.
//!
//! A system says once that it could not keep what was written: the next call succeeds without the bytes being there. Threads that
//! wait for the disk therefore ask one after the other, and what one of them has heard holds for all.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::journal::Partial;
use super::plan::Plan;
use super::run::{RunError, io_error};

/// Files of a plan, with the names that they have until they are whole.
pub(super) struct Disk {
    files: Vec<(PathBuf, File)>,
    /// What the system said when it refused to keep something.
    refused: Mutex<Option<io::ErrorKind>>,
}

impl Disk {
    /// Opens the files of `plan`, or creates them, and writes what does not depend on weights. What is in them stays unless `fresh`.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn open(partial: &Partial, plan: &Plan, fresh: bool) -> Result<Disk, RunError> {
        for (name, bytes) in plan.beside.iter().flatten() {
            fs::create_dir_all(&partial.root).map_err(|error| io_error("create", &partial.root, error))?;
            let path = partial.root.join(name);
            fs::write(&path, bytes).map_err(|error| io_error("write", &path, error))?;
        }
        let mut files = Vec::new();
        for (path, weights) in partial.files.iter().zip(&plan.files) {
            let fail = |doing| move |error| io_error(doing, path, error);
            let file = File::options().write(true).create(true).truncate(fresh).open(path);
            let file = file.map_err(fail("create"))?;
            file.set_len(weights.len).map_err(fail("size"))?;
            file.write_all_at(&weights.header, 0).map_err(fail("write"))?;
            for (at, bytes) in &weights.fixed {
                file.write_all_at(bytes, *at).map_err(fail("write"))?;
            }
            files.push((path.clone(), file));
        }
        Ok(Disk { files, refused: Mutex::new(None) })
    }

    /// Writes `bytes` into a file of the plan, from byte `at`.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn write(&self, file: usize, bytes: &[u8], at: u64) -> Result<(), RunError> {
        let (path, file) = &self.files[file];
        file.write_all_at(bytes, at).map_err(|error| io_error("write", path, error))
    }

    /// Waits by `sync` until all that is written is on the disk.
    ///
    /// # Errors
    /// When the disk refuses it, or has refused anything before.
    pub(super) fn sync(&self, sync: impl Fn(&File) -> io::Result<()>) -> Result<(), RunError> {
        // Held all the while: nobody hears that all is well between a refusal and its mark.
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, file) in &self.files {
            let kept = match *refused {
                None => sync(file),
                Some(kind) => Err(io::Error::new(kind, "the disk has refused before what was written")),
            };
            kept.map_err(|error| {
                *refused = Some(error.kind());
                io_error("write", path, error)
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use wharf_model::Model;
    use wharf_testkit::TinyModel;

    use super::*;

    /// A plan whose file is `out`, and the file.
    pub(in super::super) fn opened(folder: &Path) -> (Plan, Partial, Disk) {
        let source = folder.join("source.gguf");
        TinyModel::default().write(&source).unwrap();
        let plan = Plan::new(&Model::open(&source).unwrap(), "q8_0".parse().unwrap()).unwrap();
        let partial = Partial::of(&folder.join("out"), &plan);
        let disk = Disk::open(&partial, &plan, true).unwrap();
        (plan, partial, disk)
    }

    /// What a full disk says.
    pub(in super::super) fn full(_: &File) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    #[test]
    fn what_the_disk_refuses_once_is_refused_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let (_, _, disk) = opened(folder.path());
        disk.sync(File::sync_data).unwrap();
        disk.sync(full).unwrap_err();
        let later = disk.sync(File::sync_data).unwrap_err();
        let told = later.to_string();
        assert!(told.contains("make room"), "the reason is kept for whoever hears of it later: {told}");
    }

    #[test]
    fn nobody_asks_the_disk_between_its_refusal_and_the_mark() {
        let folder = tempfile::tempdir().unwrap();
        let (_, _, disk) = opened(folder.path());
        let refuse = |file: &File| {
            assert!(disk.refused.try_lock().is_err(), "another thread could hear that all is well");
            full(file)
        };
        disk.sync(refuse).unwrap_err();
    }
}
