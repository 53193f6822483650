//! Files of this machine: `file://`, and `pvc://` below the folder that the claim is mounted at.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use wharf_api::source::VolumeSource;

use crate::error::FetchError;
use crate::names::RelativeName;
use crate::object::Object;
use crate::remote::{Kind, Remote, RemoteFile};
use crate::select;
use crate::settings::Settings;

const MAX_FILES: usize = 100_000;
const MAX_DEPTH: usize = 16;

/// A file, or the files of a folder and those below it.
pub(crate) fn open(path: &Path) -> Result<Remote, FetchError> {
    below(path, None)
}

/// As [`open`], but nothing that a link leads to outside of the volume.
pub(crate) fn volume(source: &VolumeSource, settings: &Settings) -> Result<Remote, FetchError> {
    let Some(mount) = settings.volumes.get(&source.claim) else {
        let known: Vec<&str> = settings.volumes.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none is".to_owned() } else { format!("{} are", known.join(", ")) };
        return Err(FetchError::Choice(format!(
            "nobody said where pvc://{} is mounted ({known} known): give --volume {}=/path/of/the/mount",
            source.claim, source.claim
        )));
    };
    let root = mount.canonicalize().map_err(FetchError::file("open the mount", mount))?;
    let path = source
        .path
        .split('/')
        .filter(|part| !part.is_empty())
        .fold(root.clone(), |path, part| path.join(part));
    below(&path, Some(&root))
}

/// What changes when a file does.
pub(crate) fn tag(metadata: &Metadata) -> Option<String> {
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{}.{:09}", modified.as_secs(), modified.subsec_nanos()))
}

fn below(path: &Path, root: Option<&Path>) -> Result<Remote, FetchError> {
    let mut walk = Walk { root, files: Vec::new() };
    let metadata = path.metadata().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => FetchError::Choice(format!("{} does not exist", path.display())),
        _ => FetchError::file("open", path)(error),
    })?;
    if metadata.is_dir() {
        walk.folder(path, "", 0)?;
        if walk.files.is_empty() {
            return Err(FetchError::Choice(format!("{} is empty", path.display())));
        }
        return select::folder(walk.files);
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    walk.file(path, &metadata, RelativeName::new(name)?)?;
    Ok(Remote::new(walk.files))
}

struct Walk<'a> {
    root: Option<&'a Path>,
    files: Vec<RemoteFile>,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path, prefix: &str, depth: usize) -> Result<(), FetchError> {
        let reading = || FetchError::file("read", folder);
        let mut entries: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(reading())? {
            entries.push(entry.map_err(reading())?.path());
        }
        entries.sort();
        for path in entries {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let name = format!("{prefix}{name}");
            if name.starts_with('.') || name == crate::manifest::MANIFEST {
                continue;
            }
            // Links are followed: the Hub's own cache is made of them.
            let metadata = path.metadata().map_err(FetchError::file("open", &path))?;
            match metadata.is_dir() {
                true if depth < MAX_DEPTH => self.folder(&path, &format!("{name}/"), depth + 1)?,
                true => return Err(FetchError::Choice(format!("{} lies too deep", path.display()))),
                false => self.file(&path, &metadata, RelativeName::new(&name)?)?,
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, metadata: &Metadata, name: RelativeName) -> Result<(), FetchError> {
        if !metadata.is_file() || self.files.len() >= MAX_FILES {
            return Err(FetchError::Choice(format!("{} is no file, or one of too many", path.display())));
        }
        let path = path.canonicalize().map_err(FetchError::file("open", path))?;
        if self.root.is_some_and(|root| !path.starts_with(root)) {
            return Err(FetchError::Choice(format!("{name} is a link that leads out of its volume")));
        }
        let (size, tag) = (Some(metadata.len()), tag(metadata));
        self.files.push(RemoteFile {
            name,
            size,
            sha256: None,
            tag,
            kind: Kind::File,
            object: Object::Local(path),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(remote: &Remote) -> Vec<&str> {
        remote.files().iter().map(|file| file.name().as_str()).collect()
    }

    #[test]
    fn a_folder_is_its_files_and_links_to_files() {
        let folder = tempfile::tempdir().unwrap();
        let (model, blobs) = (folder.path().join("model"), folder.path().join("blobs"));
        std::fs::create_dir_all(model.join("sub")).unwrap();
        std::fs::create_dir(&blobs).unwrap();
        std::fs::write(blobs.join("1"), "weights").unwrap();
        std::os::unix::fs::symlink(blobs.join("1"), model.join("model.safetensors")).unwrap();
        for name in ["config.json", "sub/x.json", "manifest.json", ".hidden", "pytorch_model.bin"] {
            std::fs::write(model.join(name), "{}").unwrap();
        }
        let remote = open(&model).unwrap();
        assert_eq!(names(&remote), ["config.json", "model.safetensors", "sub/x.json"]);
        assert_eq!(remote.skipped(), ["pytorch_model.bin"]);
        assert_eq!(remote.files()[1].size(), Some(7));
        assert_eq!(names(&open(&model.join("config.json")).unwrap()), ["config.json"]);
        assert!(open(&folder.path().join("gone")).unwrap_err().is_bad_input());
    }

    #[test]
    fn a_volume_is_where_it_is_mounted_and_links_do_not_lead_out() {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().join("mnt");
        std::fs::create_dir_all(mount.join("qwen")).unwrap();
        std::fs::write(mount.join("qwen/a.gguf"), "x").unwrap();
        let mut settings = Settings::from_env(&[].into()).unwrap();
        let source = |text: &str| match text.parse().unwrap() {
            wharf_api::SourceUrl::Volume(source) => source,
            _ => panic!(),
        };
        let error = volume(&source("pvc://models/qwen"), &settings).unwrap_err();
        assert!(error.to_string().contains("--volume models=") && error.is_bad_input(), "{error}");
        settings.volumes.insert("models".into(), mount.clone());
        assert_eq!(names(&volume(&source("pvc://models/qwen"), &settings).unwrap()), ["a.gguf"]);
        std::fs::write(folder.path().join("secret.gguf"), "x").unwrap();
        std::os::unix::fs::symlink("../../secret.gguf", mount.join("qwen/b.gguf")).unwrap();
        assert!(
            volume(&source("pvc://models/qwen"), &settings).unwrap_err().to_string().contains("leads out")
        );
    }
}
