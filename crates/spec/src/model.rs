//! `Model`: a source and what is done to it, as an object that services share.

#![expect(unreachable_pub, reason = "kube's derive makes public types that nobody can name")]

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::scalar::{Digest, Duration, Source};
use crate::service::{Cache, Credentials, ModelStatus, Optimize, Placement, Resources};

/// A source and what is done to it. Only `source` is required.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "wharf.dev",
    version = "v1alpha1",
    kind = "Model",
    plural = "models",
    category = "wharf",
    namespaced,
    status = "ModelStatus",
    derive = "PartialEq",
    doc = "The weights of a large language model: fetched, distilled, quantised and compared by Jobs, kept in a volume, shared by services.",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$')")
        .message("the name becomes a label's value: lower-case letters, digits and hyphens, at most 63 of them, a letter first"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Source", type_ = "string", json_path = ".spec.source"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Percent", type_ = "number", json_path = ".status.percent"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ModelSpec {
    /// Where the model comes from: `hf://owner/repo`, `hf://owner/repo/file.gguf`, `https://…`, `s3://…`, `gs://…`, `oci://…` or
    /// `pvc://claim/path`.
    pub source: Source,
    /// What the source must hash to. A source that does not is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Secret with what the source asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// What is done to the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimize: Option<Optimize>,
    /// Where files are kept.
    #[serde(default)]
    pub cache: Cache,
    /// How long files of an earlier source or recipe stay when nothing uses them any more. After that they are removed, and made again if they are
    /// asked for again.
    #[serde(default = "keep_unused_for")]
    pub keep_unused_for: Duration,
    /// CPU, memory and GPUs of the Jobs.
    #[serde(default)]
    pub resources: Resources,
    /// On which nodes Jobs run.
    #[serde(default)]
    pub placement: Placement,
    /// Address ranges that Jobs may fetch from on port 443, instead of every public address: a proxy or a mirror.
    #[serde(rename = "egressCIDRs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub egress_cidrs: Vec<String>,
}

/// Long enough to change one's mind on the next morning without fetching again.
fn keep_unused_for() -> Duration {
    Duration::parse("24h").expect("a duration")
}
