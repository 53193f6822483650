//! Decides which files belong to a GGUF that was split into parts (`name-00002-of-00005.gguf`).

use std::path::{Path, PathBuf};

/// A file name of the form that `llama-gguf-split` writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitName {
    /// Everything before `-00001-of-00005.gguf`, folder included.
    pub prefix: PathBuf,
    /// One-based number of this part.
    pub part: usize,
    /// Number of parts.
    pub count: usize,
}

impl SplitName {
    /// Path of part `part` (one-based).
    pub fn path(&self, part: usize) -> PathBuf {
        let mut name = self.prefix.clone().into_os_string();
        name.push(format!("-{part:05}-of-{:05}.gguf", self.count));
        PathBuf::from(name)
    }
}

/// Takes `path` apart when its name is that of one part of a split file.
pub fn split_name(path: &Path) -> Option<SplitName> {
    let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = name.rsplit_once("-of-")?;
    let (prefix, part) = rest.rsplit_once('-')?;
    let number = |digits: &str| {
        (digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit()))
            .then(|| digits.parse::<usize>().ok())?
    };
    let (part, count) = (number(part)?, number(count)?);
    (1..=count).contains(&part).then(|| SplitName { prefix: path.with_file_name(prefix), part, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_knows_its_siblings() {
        let name = split_name(Path::new("/m/big-00002-of-00003.gguf")).unwrap();
        assert_eq!((name.part, name.count), (2, 3));
        assert_eq!(name.path(3), Path::new("/m/big-00003-of-00003.gguf"));
    }

    #[test]
    fn other_names_are_whole_files() {
        for name in [
            "big.gguf",
            "big-00004-of-00003.gguf",
            "big-1-of-3.gguf",
            "a-of-b.gguf",
            "big-00000-of-00003.gguf",
        ] {
            assert_eq!(split_name(Path::new(name)), None, "{name}");
        }
    }
}
