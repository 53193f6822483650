//! The only place that reads the environment, and what each variable means.
#![expect(
    clippy::disallowed_methods,
    reason = "xtask's configuration is the environment; this file reads all of it"
)]

use std::path::{Path, PathBuf};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask lies in a folder of the repository").to_owned()
}

/// `WHARF_CACHE`, else `wharf` in the user's cache folder.
pub(crate) fn cache() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("WHARF_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("wharf")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/wharf")))
}

/// `WHARF_DEMO_MODEL`: a model file or folder to use instead of the demo model.
pub(crate) fn demo_model() -> Option<PathBuf> {
    std::env::var_os("WHARF_DEMO_MODEL").filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// `WHARF_PEERS_PYTHONPATH`: where the engines that we compare with are installed already.
pub(crate) fn peers_packages() -> Option<PathBuf> {
    std::env::var_os("WHARF_PEERS_PYTHONPATH").filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// `WHARF_BINARY`: a `wharf` to measure or demonstrate with instead of one that is built here.
pub(crate) fn wharf() -> Option<PathBuf> {
    std::env::var_os("WHARF_BINARY").filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// `WHARF_TEST_SMOLLM2`: a copy of the pinned model for the test of the real tokenizer.
pub(crate) fn test_model() -> Option<PathBuf> {
    std::env::var_os("WHARF_TEST_SMOLLM2").map(PathBuf::from)
}

/// `CI=true` (or `1`): a missing tool is a failure.
pub(crate) fn in_ci() -> bool {
    matches!(std::env::var("CI").as_deref(), Ok("true" | "1"))
}

/// The cargo that runs this program.
pub(crate) fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}
