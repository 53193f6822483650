//! Names of files that servers and archives chose: they lie below the folder that they are put into, or are refused.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::FetchError;

/// A path of plain parts, with forward slashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelativeName(String);

/// Longest part of a name, as file systems have it; room is left for what we append while a file is not whole.
const MAX_PART: usize = 240;
const MAX_NAME: usize = 2048;

/// First parts that are ours.
const RESERVED: [&str; 3] = [crate::manifest::MANIFEST, crate::place::INSIDE, crate::place::LOCK];

impl RelativeName {
    /// Refuses what is empty, absolute, climbs up, names a device, or would be one of our own files.
    pub fn new(name: &str) -> Result<RelativeName, FetchError> {
        let bad = |why| FetchError::BadName { name: name.chars().take(200).collect(), why };
        let name_ = name.strip_prefix("./").unwrap_or(name).trim_end_matches('/');
        if name_.is_empty() || name_.len() > MAX_NAME {
            return Err(bad("it is empty or too long"));
        }
        if name_.starts_with('/') {
            return Err(bad("it is absolute"));
        }
        if name_.contains(|c: char| c.is_control() || c == '\\' || c == ':') {
            return Err(bad("it holds a character that no file of a model needs"));
        }
        for part in name_.split('/') {
            match part {
                "" | "." => return Err(bad("it has an empty part")),
                ".." => return Err(bad("it leads out of its folder")),
                part if part.len() > MAX_PART => return Err(bad("a part of it is too long")),
                _ => {}
            }
        }
        if name_.split('/').next().is_some_and(|first| RESERVED.contains(&first)) {
            return Err(bad("it is the name of a file that Wharf writes itself"));
        }
        Ok(RelativeName(name_.to_owned()))
    }

    /// With forward slashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where it lies below `folder`.
    pub fn below(&self, folder: &Path) -> PathBuf {
        self.0.split('/').fold(folder.to_owned(), |path, part| path.join(part))
    }

    /// The last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl std::fmt::Display for RelativeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RelativeName {
    type Error = FetchError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        RelativeName::new(&name)
    }
}

impl From<RelativeName> for String {
    fn from(name: RelativeName) -> String {
        name.0
    }
}

/// Refuses a list in which two files have one name, or one is a folder that another lies in.
pub(crate) fn distinct<'a>(names: impl Iterator<Item = &'a RelativeName>) -> Result<(), FetchError> {
    let mut seen = std::collections::BTreeSet::new();
    let bad = |name: &RelativeName, why| FetchError::BadName { name: name.to_string(), why };
    for name in names {
        if !seen.insert(name.as_str()) {
            return Err(bad(name, "it comes twice"));
        }
    }
    for name in &seen {
        let inner = format!("{name}/");
        if seen.range(inner.as_str()..).next().is_some_and(|next| next.starts_with(&inner)) {
            return Err(FetchError::BadName { name: (*name).to_owned(), why: "it is a file and a folder" });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_below_its_folder() {
        for (name, kept) in [("a/b.json", "a/b.json"), ("./a", "a"), ("a/", "a"), ("..a", "..a")] {
            assert_eq!(RelativeName::new(name).unwrap().as_str(), kept);
        }
        assert_eq!(RelativeName::new("a/b").unwrap().below(Path::new("/x")), Path::new("/x/a/b"));
        for name in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a//b",
            "a/./b",
            "a\\..\\b",
            "C:x",
            "a\0b",
            "a\nb",
            "manifest.json",
            ".wharf-partial/x",
            &"x".repeat(300),
        ] {
            assert!(RelativeName::new(name).is_err(), "{name:?}");
        }
        RelativeName::new("sub/manifest.json").unwrap();
    }

    #[test]
    fn two_files_do_not_share_a_place() {
        let names = |names: &[&str]| -> Vec<RelativeName> {
            names.iter().map(|name| RelativeName::new(name).unwrap()).collect()
        };
        assert!(distinct(names(&["a", "b/c", "b/d"]).iter()).is_ok());
        assert!(distinct(names(&["a", "a"]).iter()).is_err());
        assert!(distinct(names(&["a", "a.b", "a/b"]).iter()).is_err());
    }
}
