//! Decides where checked-in fixtures are.

use std::path::PathBuf;

/// Folder of the tiny models with reference logits; its README describes the layout.
pub fn models() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/models")
}
