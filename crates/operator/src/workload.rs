//! What makes the pods of a version, a Deployment or a LeaderWorkerSet, and the notes on it. Pure.

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;
use wharf_cluster::Object;
use wharf_manifests::names::COLOUR;
use wharf_rollout::Colour;

use crate::observe::has_ended;

/// Revision that a workload and its pods were made from.
pub(crate) const REVISION: &str = "wharf.dev/revision";
/// Generation of the object that a workload was made from.
pub(crate) const GENERATION: &str = "wharf.dev/generation";
/// The spec that a workload was made from.
pub(crate) const RELEASED: &str = "wharf.dev/released";

/// What makes the pods of a version.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) colour: Colour,
    pub(crate) generation: i64,
    pub(crate) revision: String,
    pub(crate) replicas: u32,
    pub(crate) object: Object,
}

impl Workload {
    /// What it makes pods by: of a LeaderWorkerSet, leaders.
    pub(crate) fn pod_specs(&self) -> impl Iterator<Item = &Value> {
        let spec = &self.object.data["spec"];
        let templates = [&spec["template"], &spec["leaderWorkerTemplate"]["leaderTemplate"]];
        templates.into_iter().map(|template| &template["spec"])
    }

    /// What its engine runs.
    pub(crate) fn image(&self) -> Option<&str> {
        self.pod_specs().find_map(|spec| spec["containers"][0]["image"].as_str())
    }
}

/// Reads a Deployment or LeaderWorkerSet; none for those that make no version.
pub(crate) fn workload(object: &Object) -> Option<Workload> {
    let colour = match object.labels().get(COLOUR).map(String::as_str) {
        Some("blue") => Colour::Blue,
        Some("green") => Colour::Green,
        _ => return None,
    };
    let note = |key: &str| object.annotations().get(key).map(String::as_str);
    let replicas = object.data["spec"]["replicas"].as_u64().unwrap_or(1);
    Some(Workload {
        colour,
        generation: note(GENERATION).and_then(|text| text.parse().ok()).unwrap_or(0),
        revision: note(REVISION).unwrap_or_default().to_owned(),
        replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
        object: Object::clone(object),
    })
}

/// Whether a pod is of a version: those of a workload of another revision, which is gone, are not.
pub(crate) fn is_of(pod: &DynamicObject, workload: &Workload) -> bool {
    pod.labels().get(COLOUR).map(String::as_str) == Some(workload.colour.name())
        && pod.annotations().get(REVISION) == Some(&workload.revision)
        && !has_ended(pod)
}
