//! How GPUs were set, on disk, for as long as the machine runs: after a boot they are as they came.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Original;
use crate::config::Paths;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Content {
    /// Of which boot it is.
    boot: String,
    gpus: BTreeMap<String, Original>,
}

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    path: PathBuf,
    content: Content,
}

impl Journal {
    /// Reads it. What cannot be read is of nobody's use, and is said.
    pub(super) fn open(paths: &Paths) -> Journal {
        let path = paths.state.join("tuning.json");
        let boot = fs::read_to_string(paths.proc.join("sys/kernel/random/boot_id")).unwrap_or_default();
        let boot = boot.trim().to_owned();
        let read = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Content>(&bytes)
                .inspect_err(|error| {
                    let path = path.display();
                    tracing::error!(%path, %error, "failed to read how GPUs were set; they cannot be put back as they were");
                })
                .ok(),
            Err(_) => None,
        };
        let content =
            read.filter(|content| content.boot == boot).unwrap_or(Content { boot, gpus: BTreeMap::new() });
        Journal { path, content }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.content.gpus.is_empty()
    }

    pub(super) fn of(&self, uuid: &str) -> Original {
        self.content.gpus.get(uuid).cloned().unwrap_or_default()
    }

    pub(super) fn all(&self) -> BTreeMap<String, Original> {
        self.content.gpus.clone()
    }

    /// Notes it, on disk before this returns. One that has nothing to undo is forgotten.
    pub(super) fn note(&mut self, uuid: &str, original: Original) -> io::Result<()> {
        if original == Original::default() {
            self.content.gpus.remove(uuid);
        } else {
            self.content.gpus.insert(uuid.to_owned(), original);
        }
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(&self.content)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_over_a_crash_and_forgotten_after_a_boot() {
        let folder = tempfile::tempdir().unwrap();
        let random = folder.path().join("sys/kernel/random");
        fs::create_dir_all(&random).unwrap();
        fs::write(random.join("boot_id"), "first\n").unwrap();
        let paths =
            Paths { proc: folder.path().to_owned(), state: folder.path().join("state"), ..Paths::default() };
        let original = Original { power_limit: Some(700_000), ..Original::default() };
        Journal::open(&paths).note("GPU-0", original.clone()).unwrap();
        assert_eq!(Journal::open(&paths).of("GPU-0"), original);
        fs::write(random.join("boot_id"), "second\n").unwrap();
        assert!(Journal::open(&paths).is_empty());
    }
}
