//! Where a model's files are: paths in the cache volume, named by digests of what they are made from, so that a changed source or
//! recipe makes new files beside the old ones, and two services with the same recipe share them.

use serde_json::json;
use wharf_api::SourceUrl;
use wharf_spec::scalar::Source;
use wharf_spec::service::Optimize;

use crate::Places;
use crate::names::{digest_of, short_digest};

/// What the names of fetched folders begin with; ten digits follow.
pub(crate) const SOURCE: &str = "source-";
/// What the names of made files and folders begin with; ten digits follow.
pub(crate) const ARTIFACT: &str = "artifact-";
/// What the name of a made file ends with.
pub(crate) const GGUF: &str = ".gguf";

/// Names what is kept in the cache volume.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Store<'a>(pub(crate) &'a Places);

/// A source as processes read it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Located {
    pub(crate) path: String,
    /// The claim of others that it lies in.
    pub(crate) claim: Option<String>,
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

impl Artifact {
    /// A model that is served as it lies.
    pub(crate) fn plain(path: String) -> Artifact {
        Artifact { path, student: None, quantized: None }
    }
}

impl Store<'_> {
    /// Where a source is fetched to.
    pub(crate) fn fetched(self, source: &Source, digest: Option<&str>) -> String {
        let key = short_digest(&format!("{source} {}", digest.unwrap_or_default()));
        format!("{}/{SOURCE}{key}", self.0.models)
    }

    /// The file of a fetched source that is one file, otherwise its folder.
    pub(crate) fn fetched_file(self, source: &Source, digest: Option<&str>) -> String {
        let folder = self.fetched(source, digest);
        if is_file(source) { format!("{folder}/{}", source.last_segment()) } else { folder }
    }

    /// The folder of a claim of others.
    pub(crate) fn volume(self, claim: &str) -> String {
        format!("{}/{claim}", self.0.volumes)
    }

    /// Where a source is read from: where it lies, or where it is fetched to.
    pub(crate) fn located(self, source: &Source, digest: Option<&str>) -> Located {
        match source.url() {
            SourceUrl::Volume(volume) => Located {
                path: format!("{}/{}", self.volume(&volume.claim), volume.path)
                    .trim_end_matches('/')
                    .to_owned(),
                claim: Some(volume.claim.clone()),
            },
            SourceUrl::File(file) => Located { path: file.path.display().to_string(), claim: None },
            SourceUrl::Hub(_) | SourceUrl::Web(_) | SourceUrl::Bucket(_) | SourceUrl::Oci(_) => {
                Located { path: self.fetched_file(source, digest), claim: None }
            }
        }
    }

    /// Where a source is after everything that is done to it; without a recipe, `original`.
    pub(crate) fn artifact(
        self,
        source: &Source,
        digest: Option<&str>,
        optimize: Option<&Optimize>,
        original: String,
    ) -> Artifact {
        let Some(optimize) = optimize else { return Artifact::plain(original) };
        let recipe = |what: serde_json::Value| digest_of(&json!([source.as_str(), digest, what]));
        let models = &self.0.models;
        let student = optimize.distill.as_ref().map(|distill| {
            let recipe = recipe(json!({"distill": distill}));
            format!("{models}/{ARTIFACT}{recipe}")
        });
        let quantized = optimize.quantize.map(|scheme| {
            let recipe =
                recipe(json!({"distill": optimize.distill, "quantize": scheme, "data": optimize.data}));
            let end = if scheme.makes_gguf() { GGUF } else { "" };
            format!("{models}/{ARTIFACT}{recipe}{end}")
        });
        let path = quantized.clone().or_else(|| student.clone()).unwrap_or(original);
        Artifact { path, student, quantized }
    }
}

/// Whether a source names one file and not a folder of them.
fn is_file(source: &Source) -> bool {
    let name = source.last_segment();
    [".gguf", ".txt", ".jsonl", ".json"].iter().any(|end| name.ends_with(end))
}
