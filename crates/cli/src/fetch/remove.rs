//! `wharf fetch --remove PATH`: removes what a Job of Wharf has put at a path of a volume, and what an interrupted one has left beside it.
//!
//! Refused is everything that is not by its name and by what is in it a model that a Job has made. The name is taken away before the first
//! byte: whoever looks in between sees a whole model or none. The same command goes on where it was stopped, and removing what is gone is done.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use wharf_fetch::Manifest;
use wharf_manifests::is_made;
use wharf_spec::job::JobResult;

use super::size;
use crate::exit::{self, BadInput as _, Failure};
use crate::job::JobArgs;

/// What it is called while it is removed.
const REMOVED: &str = ".removed";
/// What fetching, quantising and distilling leave beside it when they are stopped.
const BEGUN: [&str; 3] = [".partial", ".partial.json", ".distilling"];
/// One of them is in every folder that quantising or distilling has made.
const OF_A_MODEL: [&str; 3] = ["config.json", "model.gguf", "model.safetensors"];

/// Removes what is at `path`.
pub(super) fn run(path: &Path, job: &JobArgs) -> Result<(), Failure> {
    job.open()?;
    let place = Place::at(path).bad_input()?;
    let bytes = place.remove()?;
    job.done(&JobResult { bytes: i64::try_from(bytes).ok(), ..JobResult::default() })?;
    let said = match bytes {
        0 => format!("{}: nothing is there\n", path.display()),
        bytes => format!("{}: {} were removed\n", path.display(), size(bytes)),
    };
    Ok(exit::print(&said)?)
}

/// What is to be removed: an entry of a folder.
struct Place {
    folder: PathBuf,
    name: String,
}

impl Place {
    fn at(path: &Path) -> anyhow::Result<Place> {
        let refused = |why: &str| anyhow!("{} was not removed: {why}", path.display());
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_made(name));
        let name =
            name.ok_or_else(|| refused("only source-… and artifact-… are, as Jobs of Wharf name them"))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.ok_or_else(|| refused("say in which folder it is"))?;
        // Where it leads is known from here on, whatever links it has.
        let folder = folder.canonicalize().with_context(|| format!("failed to find {}", folder.display()))?;
        Ok(Place { folder, name: name.to_owned() })
    }

    fn with(&self, end: &str) -> PathBuf {
        self.folder.join(format!("{}{end}", self.name))
    }

    /// Gives the bytes that were there.
    fn remove(&self) -> Result<u64, Failure> {
        let (path, removed) = (self.with(""), self.with(REMOVED));
        // An earlier run was stopped; its name must be free.
        let mut bytes = clear(&removed)?;
        if self.is_there(&path)? {
            fs::rename(&path, &removed).map_err(|error| failed("rename", &path, error))?;
            bytes += clear(&removed)?;
        }
        for end in BEGUN {
            bytes += clear(&self.with(end))?;
        }
        Ok(bytes)
    }

    /// Whether there is a model that a Job has made.
    fn is_there(&self, path: &Path) -> Result<bool, Failure> {
        let Some(found) = look(path)? else { return Ok(false) };
        let is_ours = match (found.is_dir(), found.is_file()) {
            (true, _) if self.name.starts_with("source-") => {
                Manifest::read(path).context("failed to read what was fetched")?.is_some()
            }
            (true, _) => OF_A_MODEL.iter().any(|file| path.join(file).is_file()),
            (_, true) => is_gguf(path).map_err(|error| failed("read", path, error))?,
            (false, false) => false,
        };
        match is_ours {
            true => Ok(true),
            false => Err(anyhow!(
                "{} was not removed: it is not what a Job of Wharf makes; look at it, and remove it by hand",
                path.display()
            ))
            .bad_input(),
        }
    }
}

/// What is there, be it a link; nothing if nothing is.
fn look(path: &Path) -> Result<Option<fs::Metadata>, Failure> {
    match path.symlink_metadata() {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("look at", path, error)),
    }
}

fn failed(doing: &str, path: &Path, error: io::Error) -> Failure {
    Failure::Failed(anyhow::Error::from(error).context(format!("failed to {doing} {}", path.display())))
}

fn is_gguf(path: &Path) -> io::Result<bool> {
    let mut magic = [0; 4];
    match fs::File::open(path)?.read_exact(&mut magic) {
        Ok(()) => Ok(&magic == b"GGUF"),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a file or a folder with all that is in it, and follows no link. Gives its bytes.
fn clear(path: &Path) -> Result<u64, Failure> {
    let Some(found) = look(path)? else { return Ok(0) };
    let (bytes, done) = match found.is_dir() {
        true => (bytes_in(path), fs::remove_dir_all(path)),
        false => (found.len(), fs::remove_file(path)),
    };
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        _ => Ok(bytes),
    }
}

/// Bytes of all files below a folder. It is told, not relied on: what cannot be read counts nothing.
fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_in(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str = "source-0123456789";
    const FILE: &str = "artifact-0123456789.gguf";

    fn remove(path: &Path) -> Result<u64, String> {
        let said = |failure: Failure| match failure {
            Failure::BadInput(error) => format!("{error:#}"),
            other => panic!("{other:?}"),
        };
        let place = Place::at(path).map_err(|error| format!("{error:#}"))?;
        place.remove().map_err(said)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A folder as `wharf fetch` leaves it.
    fn fetched(folder: &Path) -> PathBuf {
        let path = folder.join(FOLDER);
        fs::create_dir_all(path.join("deep")).unwrap();
        fs::write(path.join("deep/weights"), [0; 1000]).unwrap();
        let digest = "00".repeat(32);
        let manifest =
            format!(r#"{{"version":1,"source":"hf://a/b","digest":"sha256:{digest}","files":[]}}"#);
        fs::write(path.join("manifest.json"), manifest).unwrap();
        path
    }

    #[test]
    fn what_was_fetched_or_made_goes_with_all_that_is_left_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let (folder, file) = (fetched(root.path()), root.path().join(FILE));
        fs::write(&file, b"GGUF and weights").unwrap();
        for left in [".partial", ".partial.json", ".removed"] {
            fs::write(root.path().join(format!("{FILE}{left}")), "x").unwrap();
        }
        fs::create_dir(root.path().join(format!("{FOLDER}.partial"))).unwrap();
        fs::write(root.path().join("source-9876543210"), "another's").unwrap();
        assert!(remove(&folder).unwrap() > 1000);
        assert_eq!(remove(&file), Ok(16 + 3));
        assert_eq!(names(root.path()), ["source-9876543210"]);
        assert_eq!(remove(&file), Ok(0), "what is gone is removed");
    }

    #[test]
    fn a_half_made_model_goes_too() {
        let root = tempfile::tempdir().unwrap();
        let begun = root.path().join("artifact-0123456789.distilling");
        fs::create_dir(&begun).unwrap();
        fs::write(begun.join("checkpoint"), [0; 10]).unwrap();
        assert_eq!(remove(&root.path().join("artifact-0123456789")), Ok(10));
        assert_eq!(names(root.path()), [""; 0]);
    }

    #[test]
    fn what_is_not_ours_stays() {
        let root = tempfile::tempdir().unwrap();
        let theirs = root.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("config.json"), "{}").unwrap();
        fs::create_dir(root.path().join(FOLDER)).unwrap();
        fs::write(root.path().join(FILE), "no weights").unwrap();
        fs::write(root.path().join("artifact-9876543210.gguf"), "GG").unwrap();
        std::os::unix::fs::symlink(&theirs, root.path().join("artifact-0123456789")).unwrap();
        let before = names(root.path());
        for name in [
            "theirs",
            FOLDER,
            FILE,
            "artifact-9876543210.gguf",
            "artifact-0123456789",
            "artifact-0123456789/..",
            "artifact-0123456789/config.json",
            ".",
            "",
        ] {
            let why = remove(&root.path().join(name)).unwrap_err();
            assert!(why.contains("was not removed"), "{name}: {why}");
        }
        assert!(remove(Path::new(FOLDER)).unwrap_err().contains("in which folder"));
        assert_eq!(names(root.path()), before);
        assert_eq!(names(&theirs), ["config.json"]);
    }

    #[test]
    fn links_in_a_model_are_removed_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let folder = fetched(root.path());
        let theirs = root.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("weights"), "x").unwrap();
        std::os::unix::fs::symlink(&theirs, folder.join("link")).unwrap();
        remove(&folder).unwrap();
        assert_eq!(names(&theirs), ["weights"]);
    }
}
