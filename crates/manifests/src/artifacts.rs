//! Where a model's files are: paths in the cache volume, named by digests of what they are made from, so that a changed source or
//! recipe makes new files beside the old ones, and two services with the same recipe share them.

use serde_json::json;
use wharf_spec::scalar::Source;
use wharf_spec::service::Optimize;

use crate::names::{digest_of, short_digest};

/// Where the cache volume is mounted in every pod.
pub(crate) const MOUNT: &str = "/models";

/// Where Jobs put a fetched source.
pub(crate) fn fetched(source: &Source, digest: Option<&str>) -> String {
    let key = short_digest(&format!("{source} {}", digest.unwrap_or_default()));
    format!("{MOUNT}/source-{key}")
}

/// The file of a fetched source that is one file, otherwise its folder.
pub(crate) fn fetched_file(source: &Source, digest: Option<&str>) -> String {
    let folder = fetched(source, digest);
    if is_file(source) { format!("{folder}/{}", source.last_segment()) } else { folder }
}

/// Whether a source names one file and not a folder of them.
fn is_file(source: &Source) -> bool {
    let name = source.last_segment();
    [".gguf", ".txt", ".jsonl", ".json"].iter().any(|end| name.ends_with(end))
}

/// A model as it is served, and the steps to it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Artifact {
    /// What the server is given.
    pub(crate) path: String,
    /// Folder of the distilled student, where there is one.
    pub(crate) student: Option<String>,
    /// What the quantised model is written as, where there is one: a file or a folder.
    pub(crate) quantized: Option<String>,
}

/// Where a source is after everything that is done to it.
pub(crate) fn artifact(source: &Source, digest: Option<&str>, optimize: Option<&Optimize>) -> Artifact {
    let original = fetched_file(source, digest);
    let Some(optimize) = optimize else {
        return Artifact { path: original, student: None, quantized: None };
    };
    let recipe = |what: serde_json::Value| digest_of(&json!([source.as_str(), digest, what]));
    let student = optimize.distill.as_ref().map(|distill| {
        let recipe = recipe(json!({"distill": distill}));
        format!("{MOUNT}/artifact-{recipe}")
    });
    let quantized = optimize.quantize.map(|scheme| {
        let recipe = recipe(json!({"distill": optimize.distill, "quantize": scheme, "data": optimize.data}));
        let end = if scheme.makes_gguf() { ".gguf" } else { "" };
        format!("{MOUNT}/artifact-{recipe}{end}")
    });
    let path = quantized.clone().or_else(|| student.clone()).unwrap_or(original);
    Artifact { path, student, quantized }
}
