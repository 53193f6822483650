//! The demo model with other types of weights: every file is made once, in the cache.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::cache::Cache;
use crate::demo_model::{self, DemoModel};
use crate::environment;
use crate::python::Python;
use crate::shell;

const GGUF: &str = "gguf==0.19.0";

/// The files of one demo model.
pub(crate) struct Files {
    folder: PathBuf,
    shipped: PathBuf,
    pinned: bool,
    pub(crate) name: String,
}

impl Files {
    /// Obtains the demo model; nothing is derived yet.
    pub(crate) fn open(cache: &Cache) -> anyhow::Result<Files> {
        let DemoModel { path: shipped, name, pinned } = demo_model::obtain()?;
        if !pinned && !shipped.is_file() {
            bail!("{} is not a GGUF file", shipped.display());
        }
        let name = match name {
            Some(name) => name.to_owned(),
            None => shipped.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()),
        };
        let folder = cache.folder("demo-files").join(identity(&shipped)?);
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
        Ok(Files { folder, shipped, pinned, name })
    }

    /// Where the file of this type is once it is made.
    pub(crate) fn path(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{kind}.gguf"))
    }

    /// Lets `make` write the file of this type, to the path that it gets, unless it is there.
    pub(crate) fn make(
        &self,
        kind: &str,
        make: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let path = self.path(kind);
        if path.is_file() {
            return Ok(());
        }
        eprintln!("deriving {kind} from {}", self.name);
        // A file with its final name is a whole file.
        let partial = path.with_extension("partial");
        make(&partial)?;
        std::fs::rename(&partial, &path).with_context(|| format!("failed to name {}", path.display()))
    }

    /// The file of a type that `scripts/gguf_types.py` knows.
    pub(crate) fn rewritten(&self, cache: &Cache, python: &Python, kind: &str) -> anyhow::Result<PathBuf> {
        self.make(kind, |partial| {
            if kind == "Q4_1" && self.pinned {
                // As it ships. The link gives it the extension by which others know the format.
                return match std::os::unix::fs::symlink(&self.shipped, partial) {
                    Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                    made => made.with_context(|| format!("failed to make the link {}", partial.display())),
                };
            }
            let packages = python.packages(cache, GGUF).context("failed to install gguf")?;
            let mut rewrite = python.command();
            rewrite.arg(environment::root().join("scripts/gguf_types.py"));
            shell::run(rewrite.arg(&self.shipped).arg(partial).arg(kind).env("PYTHONPATH", packages))
        })?;
        Ok(self.path(kind))
    }
}

/// Names a model file without reading it whole: path, length and time of change.
fn identity(path: &Path) -> anyhow::Result<String> {
    let looking = || format!("failed to look at {}", path.display());
    let found = path.metadata().with_context(looking)?;
    let changed = found.modified().with_context(looking)?;
    Ok(short_digest(&format!("{} {} {changed:?}", path.display(), found.len())))
}

/// The first 16 digits of a SHA-256.
pub(crate) fn short_digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
