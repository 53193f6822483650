//! The children that a service should have. Pure.

use kube::api::DynamicObject;
use serde_json::Value;
use wharf_manifests::names::COLOUR;
use wharf_manifests::{Mode, RenderError, Settings, State};
use wharf_rollout::{Colour, Version};
use wharf_spec::LLMService;
use wharf_spec::service::Traffic;

use super::validate::{Wanted, released};
use crate::apply::own;
use crate::live::mark;
use crate::made;
use crate::workload::{GENERATION, RELEASED, REVISION};

/// Everything but what makes the pods of versions.
pub(crate) struct Built {
    /// To be applied in this order.
    pub(crate) children: Vec<Value>,
    /// To be started one after the other.
    pub(crate) jobs: Vec<Value>,
}

/// Children that do not depend on which versions there are, for the spec as it is.
pub(super) fn children(
    object: &DynamicObject,
    wanted: &Wanted,
    settings: &Settings,
) -> Result<Built, RenderError> {
    let serving = serving(&wanted.before.traffic);
    let version = wharf_manifests::Version { colour: serving, replicas: 0, released: None };
    let state = State { versions: vec![version], serving };
    let mut built = Built { children: Vec::new(), jobs: Vec::new() };
    for mut child in wharf_manifests::service(&wanted.service, &state, settings, Mode::Managed)? {
        if child["metadata"]["labels"][COLOUR].is_string() {
            continue;
        }
        own(object, &mut child);
        mark(&mut child);
        match child["kind"] == "Job" {
            true => built.jobs.push(child),
            false => built.children.push(child),
        }
    }
    Ok(built)
}

/// The version that a Service selects where there is no gateway: the one with most traffic.
fn serving(traffic: &[Traffic]) -> Colour {
    let most = traffic.iter().max_by_key(|traffic| traffic.weight);
    match most.map(|traffic| traffic.colour.as_str()) {
        Some("green") => Colour::Green,
        _ => Colour::Blue,
    }
}

/// What makes the pods of a version that is made from a service, and the files that they mount. Its engine runs the image that it ran before, if
/// it did.
pub(super) fn version(
    object: &DynamicObject,
    (service, image): (&LLMService, Option<&str>),
    settings: &Settings,
    of: &Version,
    replicas: u32,
) -> Result<Vec<Value>, RenderError> {
    let rendered = wharf_manifests::Version { colour: of.colour, replicas, released: None };
    let state = State { versions: vec![rendered], serving: of.colour };
    let mut pinned = service.clone();
    pinned.spec.runtime.image = image.map(str::to_owned).or(pinned.spec.runtime.image);
    let mut all = wharf_manifests::service(&pinned, &state, settings, Mode::Managed)?;
    all.retain(|child| child["metadata"]["labels"][COLOUR].is_string() || child["kind"] == "ConfigMap");
    for child in &mut all {
        own(object, child);
        if child["metadata"]["labels"][COLOUR].is_string() {
            note(child, service, of);
        }
        mark(child);
    }
    Ok(all)
}

/// Writes on a workload what it was made from.
fn note(workload: &mut Value, service: &LLMService, of: &Version) {
    let notes = &mut workload["metadata"]["annotations"];
    notes[REVISION] = of.revision.as_str().into();
    notes[GENERATION] = of.generation.to_string().into();
    notes[RELEASED] = released(service).into();
    let templates = [
        "/spec/template",
        "/spec/leaderWorkerTemplate/leaderTemplate",
        "/spec/leaderWorkerTemplate/workerTemplate",
    ];
    for template in templates {
        if let Some(template) = workload.pointer_mut(template) {
            template["metadata"]["annotations"][REVISION] = of.revision.as_str().into();
        }
    }
    made::note(workload);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_version_with_most_traffic_is_the_one_that_serves() {
        let traffic = |shares: Value| -> Vec<Traffic> { serde_json::from_value(shares).unwrap() };
        assert_eq!(serving(&[]), Colour::Blue);
        let shares = json!([
            {"colour": "blue", "weight": 5, "generation": 1},
            {"colour": "green", "weight": 95, "generation": 2},
        ]);
        assert_eq!(serving(&traffic(shares)), Colour::Green);
    }
}
