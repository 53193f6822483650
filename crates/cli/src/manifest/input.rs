//! Reads the files that `-f` names, and what objects are in them.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use wharf_spec::{Document, Object, Problem, Severity, check};

/// Which files to read.
#[derive(clap::Args)]
pub(crate) struct Files {
    /// File with objects in YAML or JSON, a folder of them, or `-` for standard input; may be given several times
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// Read the folders in folders too
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// What the files hold.
pub(crate) struct Objects {
    /// Our own objects that could be understood, in the order of the files; some may be wrong.
    pub(crate) objects: Vec<Object>,
    /// Everything that is wrong with them.
    pub(crate) problems: Vec<Problem>,
    /// The documents, those of others included.
    pub(crate) documents: Vec<Document>,
    /// For each object, which of the documents it is from.
    pub(crate) places: Vec<usize>,
    /// `apiVersion` and kind of objects that are not ours.
    pub(crate) foreign: Vec<String>,
}

impl Objects {
    /// How many of the problems have a severity.
    pub(crate) fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|problem| problem.severity == severity).count()
    }
}

impl Files {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// When a file cannot be read or is not YAML, or when there is no file in a folder.
    pub(crate) fn read(&self) -> anyhow::Result<Objects> {
        Files::parse(&self.texts()?)
    }

    /// Names and contents of all files.
    ///
    /// # Errors
    /// When a file cannot be read, or when there is no file in a folder.
    pub(crate) fn texts(&self) -> anyhow::Result<Vec<(String, String)>> {
        let all = self.files.iter().map(|path| texts(path, self.recursive));
        Ok(all.collect::<anyhow::Result<Vec<_>>>()?.concat())
    }

    /// Checks everything that files hold.
    ///
    /// # Errors
    /// When a text is not YAML.
    pub(crate) fn parse(texts: &[(String, String)]) -> anyhow::Result<Objects> {
        let mut found = Objects {
            objects: Vec::new(),
            problems: Vec::new(),
            documents: Vec::new(),
            places: Vec::new(),
            foreign: Vec::new(),
        };
        for (name, text) in texts {
            for document in Document::read(name, text)? {
                let (object, problems) = check(&document);
                found.problems.extend(problems);
                match object {
                    Some(Object::Foreign(api_version, kind)) => {
                        found.foreign.push(format!("{api_version} {kind}"))
                    }
                    Some(object) => {
                        found.objects.push(object);
                        found.places.push(found.documents.len());
                    }
                    None => {}
                }
                found.documents.push(document);
            }
        }
        Ok(found)
    }
}

/// Names and contents of what a path stands for.
fn texts(path: &Path, recursive: bool) -> anyhow::Result<Vec<(String, String)>> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("failed to read standard input")?;
        return Ok(vec![("-".to_owned(), text)]);
    }
    if !path.is_dir() {
        return Ok(vec![(path.display().to_string(), read(path)?)]);
    }
    let mut files = Vec::new();
    list(path, recursive, &mut files)?;
    if files.is_empty() {
        bail!("no .yaml, .yml or .json file in {}; -R looks in the folders in it too", path.display());
    }
    files.into_iter().map(|file| Ok((file.display().to_string(), read(&file)?))).collect()
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

/// The files of a folder by name, those of the folders in it after them.
fn list(folder: &Path, recursive: bool, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let listing = || format!("failed to list {}", folder.display());
    let entries = std::fs::read_dir(folder).with_context(listing)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .with_context(listing)?;
    paths.sort();
    let (folders, others): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.is_dir());
    let ours = |path: &PathBuf| {
        path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e == *known))
    };
    files.extend(others.into_iter().filter(ours));
    if recursive {
        folders.iter().try_for_each(|folder| list(folder, recursive, files))?;
    }
    Ok(())
}
