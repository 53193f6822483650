//! A checkpoint on this machine, of which only parts of files are read.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Context;
use wharf_plan::ModelFiles;
use wharf_plan::header::FileInfo;

/// Files of one folder.
pub(super) struct LocalFiles {
    /// What to call the model.
    pub(super) name: String,
    /// What headers call a file, and where it is.
    files: Vec<(FileInfo, PathBuf)>,
}

impl LocalFiles {
    /// The files that belong to the model at `path`.
    pub(super) fn at(path: &Path) -> anyhow::Result<LocalFiles> {
        let about = fs::metadata(path).context("failed to look for it")?;
        if about.is_dir() {
            if wharf_model::shard::folder::is_sharded(path) {
                anyhow::bail!("it was cut for a group of ranks; give the model that it was cut from");
            }
            return LocalFiles::folder(path);
        }
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let beside = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let is_config = path.file_name().is_some_and(|name| name == "config.json");
        let is_split = wharf_model::gguf::split_name(path).is_some();
        match extension {
            "safetensors" => LocalFiles::folder(beside),
            "json" if is_config => LocalFiles::folder(beside),
            "gguf" if is_split => {
                let mut all = LocalFiles::folder(beside)?;
                let first = wharf_model::gguf::split_name(path).map(|split| split.path(1));
                let parts =
                    |file: &PathBuf| wharf_model::gguf::split_name(file).map(|split| split.path(1)) == first;
                all.files.retain(|(_, file)| parts(file));
                all.name = name_of(path);
                Ok(all)
            }
            _ => {
                // The text of a configuration is one whatever its name.
                let name = if extension == "json" { "config.json".to_owned() } else { file_name(path) };
                let file = (FileInfo { name, bytes: about.len() }, path.to_owned());
                Ok(LocalFiles { name: name_of(path), files: vec![file] })
            }
        }
    }

    fn folder(folder: &Path) -> anyhow::Result<LocalFiles> {
        let what = || format!("failed to list {}", folder.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).with_context(what)? {
            let path = entry.with_context(what)?.path();
            // Links are followed: caches keep files under their digests. One that leads nowhere is no file.
            if let Ok(about) = fs::metadata(&path)
                && about.is_file()
            {
                files.push((FileInfo { name: file_name(&path), bytes: about.len() }, path));
            }
        }
        Ok(LocalFiles { name: name_of(folder), files })
    }
}

impl ModelFiles for LocalFiles {
    fn files(&self) -> io::Result<Vec<FileInfo>> {
        Ok(self.files.iter().map(|(info, _)| info.clone()).collect())
    }

    fn read(&self, name: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let found = self.files.iter().find(|(info, _)| info.name == name);
        let (_, path) = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(range.start))?;
        let mut bytes = Vec::new();
        file.take(range.end - range.start).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The last component of a path without what tells its format.
fn name_of(path: &Path) -> String {
    let resolved = || path.canonicalize().map(|path| file_name(&path)).unwrap_or_default();
    let name = Some(file_name(path)).filter(|name| !name.is_empty()).unwrap_or_else(resolved);
    name.trim_end_matches(".gguf").trim_end_matches(".json").to_owned()
}
