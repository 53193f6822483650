//! Unpacks archives that strangers made: plain files and folders below one folder, no more bytes than allowed, never a link on the disk.
//!
//! A link to a file of the same archive becomes a second name of that file. Every other link, device, absolute or climbing name is refused, so at no
//! time is there a link that a later entry could be written through.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Write as _};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use tar::{Archive, EntryType};
use wharf_api::Digest;

use crate::error::FetchError;
use crate::manifest::ManifestFile;
use crate::names::RelativeName;
use crate::remote::Packing;
use crate::transfer::Budget;
use crate::zstd::ZstdFrames;

const MAX_ENTRIES: usize = 100_000;

/// Unpacks `archive` into `folder` and says what is there then.
pub(crate) fn unpack(
    archive: &Path,
    packing: Packing,
    folder: &Path,
    budget: &Budget,
) -> Result<Vec<ManifestFile>, FetchError> {
    let file = File::open(archive).map_err(FetchError::file("open", archive))?;
    let reader = BufReader::with_capacity(1 << 20, file);
    match packing {
        Packing::None => entries(reader, archive, folder, budget),
        Packing::Gzip => entries(MultiGzDecoder::new(reader), archive, folder, budget),
        Packing::Zstd => entries(ZstdFrames::new(reader), archive, folder, budget),
    }
}

fn entries(
    reader: impl Read,
    archive: &Path,
    folder: &Path,
    budget: &Budget,
) -> Result<Vec<ManifestFile>, FetchError> {
    let broken =
        |error: std::io::Error| FetchError::answer(format!("the archive {}", archive.display()), error);
    let mut files: BTreeMap<RelativeName, ManifestFile> = BTreeMap::new();
    for (count, entry) in Archive::new(reader).entries().map_err(broken)?.enumerate() {
        let mut entry = entry.map_err(broken)?;
        let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refuse = |why| FetchError::BadEntry { name: raw.clone(), why };
        if count >= MAX_ENTRIES {
            return Err(refuse("there are too many"));
        }
        let kind = entry.header().entry_type();
        if kind == EntryType::Directory && matches!(raw.as_str(), "." | "./" | "/") {
            continue;
        }
        let name = match kind {
            // Notes about all entries that follow.
            EntryType::XGlobalHeader => continue,
            _ => RelativeName::new(&raw)?,
        };
        if name.file_name().starts_with(".wh.") {
            return Err(refuse("it takes away a file of a layer below, which models have no need for"));
        }
        match kind {
            EntryType::Directory => make_folder(&name.below(folder))?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let made = write(&mut entry, &name, folder, budget, &broken)?;
                files.insert(name, made);
            }
            EntryType::Link | EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| refuse("it is a link to nothing"))?;
                let target = String::from_utf8_lossy(&target).into_owned();
                let target = match kind {
                    EntryType::Link => RelativeName::new(&target).ok(),
                    _ => linked(&name, &target),
                };
                let there = target.and_then(|target| files.get(&target).cloned());
                let there = there.ok_or_else(|| {
                    refuse("it is a link to something that is not a file of the archive before it")
                })?;
                let (from, to) = (there.path.below(folder), name.below(folder));
                make_parent(&to)?;
                let _ = std::fs::remove_file(&to);
                std::fs::hard_link(&from, &to).map_err(FetchError::file("link", &to))?;
                files.insert(name.clone(), ManifestFile { path: name, ..there });
            }
            _ => return Err(refuse("it is neither a file nor a folder")),
        }
    }
    Ok(files.into_values().collect())
}

/// What a symbolic link at `name` means, if that lies in the archive.
fn linked(name: &RelativeName, target: &str) -> Option<RelativeName> {
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = name.as_str().split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    RelativeName::new(&parts.join("/")).ok()
}

fn write(
    entry: &mut impl Read,
    name: &RelativeName,
    folder: &Path,
    budget: &Budget,
    broken: &dyn Fn(std::io::Error) -> FetchError,
) -> Result<ManifestFile, FetchError> {
    let path = name.below(folder);
    make_parent(&path)?;
    let writing = || FetchError::file("write", &path);
    // A second entry of the name replaces the first, which may have other names by now.
    let _ = std::fs::remove_file(&path);
    let mut file = File::create_new(&path).map_err(writing())?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = entry.read(&mut buffer).map_err(broken)?;
        if n == 0 {
            break;
        }
        budget.take(n as u64, &|| format!("{name} of the archive"))?;
        hash.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(writing())?;
        size += n as u64;
    }
    file.sync_data().map_err(writing())?;
    let sha256 = Digest::new(hash.finalize().into());
    Ok(ManifestFile { path: name.clone(), size, sha256, tag: None })
}

fn make_folder(path: &Path) -> Result<(), FetchError> {
    std::fs::create_dir_all(path).map_err(FetchError::file("create", path))
}

fn make_parent(path: &Path) -> Result<(), FetchError> {
    path.parent().map_or(Ok(()), make_folder)
}

#[cfg(test)]
mod tests {
    use tar::{Builder, Header};

    use super::*;

    struct Tar(Builder<Vec<u8>>);

    impl Tar {
        fn new() -> Tar {
            Tar(Builder::new(Vec::new()))
        }

        /// The name goes into the header as it is: the builder's own functions would refuse what we test with.
        fn entry(mut self, kind: EntryType, name: &str, link: &str, bytes: &[u8]) -> Tar {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(kind);
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            self.0.append(&header, bytes).unwrap();
            self
        }

        fn file(self, name: &str, bytes: &[u8]) -> Tar {
            self.entry(EntryType::Regular, name, "", bytes)
        }

        fn unpack(self, limit: Option<u64>) -> (tempfile::TempDir, Result<Vec<ManifestFile>, FetchError>) {
            let folder = tempfile::tempdir().unwrap();
            let archive = folder.path().join("a.tar");
            std::fs::write(&archive, self.0.into_inner().unwrap()).unwrap();
            let into = folder.path().join("in");
            std::fs::create_dir(&into).unwrap();
            let outcome = unpack(&archive, Packing::None, &into, &Budget::new(limit));
            (folder, outcome)
        }
    }

    #[test]
    fn files_folders_and_links_within_are_unpacked() {
        let tar = Tar::new()
            .entry(EntryType::Directory, "./", "", b"")
            .entry(EntryType::Directory, "m/", "", b"")
            .file("m/blobs/a", b"hello")
            .entry(EntryType::Symlink, "m/a.gguf", "blobs/a", b"")
            .entry(EntryType::Link, "m/b.gguf", "m/blobs/a", b"");
        let (folder, files) = tar.unpack(None);
        let files = files.unwrap();
        let names: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(names, ["m/a.gguf", "m/b.gguf", "m/blobs/a"]);
        for name in names {
            let path = folder.path().join("in").join(name);
            assert!(path.symlink_metadata().unwrap().is_file());
            assert_eq!(std::fs::read(path).unwrap(), b"hello");
        }
        assert!(files.iter().all(|file| file.size == 5 && file.sha256 == files[0].sha256));
    }

    #[test]
    fn nothing_leads_out_of_the_folder() {
        let bad = |tar: Tar| {
            let (folder, outcome) = tar.unpack(None);
            assert!(!folder.path().join("evil").exists());
            outcome.unwrap_err().to_string()
        };
        for name in ["../evil", "/evil", "a/../../evil"] {
            assert!(bad(Tar::new().file(name, b"x")).contains("refused"), "{name}");
        }
        for target in ["../evil", "/etc/passwd", "..", "nowhere"] {
            let error = bad(Tar::new().entry(EntryType::Symlink, "a", target, b"").file("a/evil", b"x"));
            assert!(error.contains("link"), "{error}");
            assert!(bad(Tar::new().entry(EntryType::Link, "a", target, b"")).contains("link"));
        }
        assert!(bad(Tar::new().entry(EntryType::Char, "a", "", b"")).contains("neither"));
        assert!(bad(Tar::new().file(".wh.a", b"")).contains("takes away"));
        assert!(bad(Tar::new().file("manifest.json", b"{}")).contains("writes itself"));
    }

    #[test]
    fn an_archive_that_grows_beyond_the_limit_is_stopped() {
        let (_folder, outcome) = Tar::new().file("a", &[0; 1000]).file("b", &[0; 1000]).unpack(Some(1500));
        assert!(matches!(outcome, Err(FetchError::TooLarge { limit: 1500, .. })));
    }
}
