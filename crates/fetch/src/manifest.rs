//! `manifest.json`: what a fetched folder consists of. Written last, so a folder that has one is whole.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wharf_api::Digest;

use crate::error::FetchError;
use crate::names::RelativeName;

/// Its name in the folder.
pub const MANIFEST: &str = "manifest.json";

const VERSION: u32 = 1;
const MAX_BYTES: u64 = 64 << 20;

/// What a folder was fetched from, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// The source as it was asked for, without a query.
    pub source: String,
    /// What the source's name stood for: a commit, or the digest of an artifact's manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// What `--digest` pins: of one file its own SHA-256, of several that of what `sha256sum` prints of them, sorted by name.
    pub digest: Digest,
    /// In the order of their names.
    pub files: Vec<ManifestFile>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Below the folder.
    pub path: RelativeName,
    /// In bytes.
    pub size: u64,
    /// Of its bytes, in hexadecimal digits.
    #[serde(with = "hex")]
    pub sha256: Digest,
    /// What its server called this version: an ETag, a time, an object of git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

mod hex {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};
    use wharf_api::Digest;

    pub(super) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&digest.hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::from_hex(&text).ok_or_else(|| D::Error::custom("expected 64 hexadecimal digits"))
    }
}

impl Manifest {
    /// The digest is `artifact`, the digest of an OCI manifest, where there is one; else that of the only file; else that of the list that
    /// `sha256sum` prints of all files in the order of their names.
    pub(crate) fn new(
        source: String,
        revision: Option<String>,
        artifact: Option<Digest>,
        mut files: Vec<ManifestFile>,
    ) -> Manifest {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let digest = artifact.unwrap_or_else(|| match &files[..] {
            [only] => only.sha256,
            files => digest_of_list(files),
        });
        Manifest { version: VERSION, source, revision, digest, files }
    }

    /// Of a folder; `None` when it has none, or one that we did not write.
    pub fn read(folder: &Path) -> Result<Option<Manifest>, FetchError> {
        let path = folder.join(MANIFEST);
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_BYTES => {}
            _ => return Ok(None),
        }
        let text = std::fs::read(&path).map_err(FetchError::file("read", &path))?;
        let manifest = serde_json::from_slice::<Manifest>(&text).ok();
        Ok(manifest.filter(|manifest| manifest.version == VERSION))
    }

    pub(crate) fn text(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("names, numbers and digests are JSON");
        text + "\n"
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// The first file that is not there in its size.
    pub(crate) fn missing(&self, folder: &Path) -> Option<&RelativeName> {
        let is_there = |file: &&ManifestFile| {
            let found = std::fs::metadata(file.path.below(folder));
            found.is_ok_and(|found| found.is_file() && found.len() == file.size)
        };
        self.files.iter().find(|file| !is_there(file)).map(|file| &file.path)
    }
}

fn digest_of_list(files: &[ManifestFile]) -> Digest {
    let mut hash = Sha256::new();
    for file in files {
        hash.update(format!("{}  {}\n", file.sha256.hex(), file.path));
    }
    Digest::new(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, byte: u8) -> ManifestFile {
        let (path, sha256) = (RelativeName::new(path).unwrap(), Digest::new([byte; 32]));
        ManifestFile { path, size: 1, sha256, tag: None }
    }

    fn manifest(artifact: Option<Digest>, files: Vec<ManifestFile>) -> Manifest {
        Manifest::new("hf://a/b".into(), Some("abc".into()), artifact, files)
    }

    #[test]
    fn the_digest_is_the_artifacts_or_the_files_or_the_lists() {
        let artifact = Digest::new([9; 32]);
        assert_eq!(manifest(Some(artifact), vec![file("a", 1)]).digest, artifact);
        assert_eq!(manifest(None, vec![file("a", 1)]).digest, Digest::new([1; 32]));
        let list = format!("{}  a\n{}  b/c\n", "01".repeat(32), "02".repeat(32));
        let expected = Digest::new(Sha256::digest(list).into());
        assert_eq!(manifest(None, vec![file("b/c", 2), file("a", 1)]).digest, expected);
    }

    #[test]
    fn a_manifest_is_read_back_and_one_of_others_is_not() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), None);
        let written = manifest(None, vec![file("a", 1)]);
        std::fs::write(folder.path().join(MANIFEST), written.text()).unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), Some(written.clone()));
        assert_eq!(written.missing(folder.path()).map(RelativeName::as_str), Some("a"));
        std::fs::write(folder.path().join("a"), "x").unwrap();
        assert_eq!(written.missing(folder.path()), None);
        for other in ["{}", "x", r#"{"version":1,"source":"s","digest":"sha256:00","files":[]}"#] {
            std::fs::write(folder.path().join(MANIFEST), other).unwrap();
            assert_eq!(Manifest::read(folder.path()).unwrap(), None);
        }
        let climbing = written.text().replace("\"a\"", "\"../a\"");
        std::fs::write(folder.path().join(MANIFEST), climbing).unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), None);
    }
}
