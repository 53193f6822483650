//! What objects of a cluster need of what lies in the volumes of models, as far as they say so. Pure.
//!
//! Too much is better than too little: what somebody needs is not removed.

use std::collections::BTreeSet;

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;
use wharf_manifests::names::{REMOVES, SERVICE};
use wharf_manifests::{Stored, made_in, model_makes, model_needs, service_needs};
use wharf_spec::Model;

use crate::jobs;
use crate::service::SPECS;
use crate::workload::RELEASED;

/// Reads off an object what it needs.
pub(crate) type Read = fn(&DynamicObject) -> Vec<Stored>;

/// What a workload needs, whether it has pods or not, and a Job that has not ended. Others need nothing.
pub(crate) fn of_child(object: &DynamicObject) -> Vec<Stored> {
    let kind = object.types.as_ref().map_or("", |types| types.kind.as_str());
    let released = match kind {
        "Deployment" | "LeaderWorkerSet" => object.annotations().get(RELEASED),
        "Job" if !jobs::has_ended(object) && !object.labels().contains_key(REMOVES) => None,
        _ => return Vec::new(),
    };
    let spec: Value = released.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let mut said = Said::default();
    said.hear(&object.data);
    said.hear(&spec);
    let mut needs = said.needs();
    let service = object.labels().get(SERVICE).map_or("", String::as_str);
    needs.extend(of_section(service, &spec["model"]));
    needs.into_iter().collect()
}

/// What a service needs as it is written, and what each version needs that its release remembers: the one that serves, the one that is to, and
/// the one that could again.
pub(crate) fn of_service(object: &DynamicObject) -> Vec<Stored> {
    let name = object.name_any();
    let mut needs = of_section(&name, &object.data["spec"]["model"]);
    let specs = object.data["status"]["rollout"][SPECS].as_object().into_iter().flatten();
    for text in specs.filter_map(|(_, spec)| spec.as_str()) {
        let spec: Value = serde_json::from_str(text).unwrap_or_default();
        needs.extend(of_section(&name, &spec["model"]));
    }
    needs.into_iter().collect()
}

/// What a Model needs: what its recipe makes and reads, and what it serves until that is made.
pub(crate) fn of_model(object: &DynamicObject) -> Vec<Stored> {
    let value = serde_json::to_value(object).unwrap_or_default();
    // One that cannot be read makes nothing, and is served by what it made before.
    let model: Option<Model> = serde_json::from_value(value).ok();
    let mut needs = model.as_ref().map(model_needs).unwrap_or_default();
    let status = &object.data["status"];
    let here = model.as_ref().and_then(|model| model_makes(model).pop()).map(|made| made.claim);
    for name in made_in(status["path"].as_str().unwrap_or_default()) {
        let listed = status["artifacts"].as_array().into_iter().flatten();
        let listed = listed.filter(|artifact| artifact["name"] == name);
        let mut claims: BTreeSet<String> =
            listed.filter_map(|artifact| artifact["claim"].as_str().map(str::to_owned)).collect();
        // What has not moved yet lies where it is listed, and nowhere else.
        if let Some(here) = here.as_ref().filter(|here| claims.is_empty() || claims.contains(*here)) {
            claims = BTreeSet::from([here.clone()]);
        }
        needs.extend(claims.into_iter().map(|claim| Stored { claim, name: name.to_owned() }));
    }
    needs.into_iter().collect()
}

fn of_section(service: &str, section: &Value) -> BTreeSet<Stored> {
    serde_json::from_value(section.clone())
        .map(|section| service_needs(service, &section))
        .unwrap_or_default()
}

/// What an object says in any of its texts: names of what Jobs have made, and claims.
#[derive(Default)]
struct Said {
    names: BTreeSet<String>,
    claims: BTreeSet<String>,
}

impl Said {
    fn hear(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.names.extend(made_in(text).map(str::to_owned)),
            Value::Array(items) => items.iter().for_each(|item| self.hear(item)),
            Value::Object(fields) => {
                self.claims.extend(fields.get("claimName").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|field| self.hear(field));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Each name in each claim.
    fn needs(&self) -> BTreeSet<Stored> {
        let with = |claim: &String| {
            let claim = claim.clone();
            self.names.iter().map(move |name| Stored { claim: claim.clone(), name: name.clone() })
        };
        self.claims.iter().flat_map(with).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    fn shown(needs: Vec<Stored>) -> Vec<String> {
        needs.into_iter().map(|Stored { claim, name }| format!("{claim}/{name}")).collect()
    }

    const NAME: &str = "artifact-0123456789.gguf";

    fn workload(kind: &str, released: &Value, pod: &Value) -> DynamicObject {
        object(json!({
            "apiVersion": "apps/v1", "kind": kind,
            "metadata": {"name": "a-blue", "labels": {SERVICE: "a"}, "annotations": {RELEASED: released.to_string()}},
            "spec": {"replicas": 0, "template": {"spec": pod}},
        }))
    }

    #[test]
    fn a_workload_needs_what_it_was_made_from_even_without_a_pod() {
        let released = json!({"model": {"source": format!("pvc://small-model/{NAME}")}});
        for kind in ["Deployment", "LeaderWorkerSet"] {
            assert_eq!(
                shown(of_child(&workload(kind, &released, &json!({})))),
                [format!("small-model/{NAME}")]
            );
        }
        let own = json!({"model": {"source": "hf://a/b"}});
        let needs = shown(of_child(&workload("Deployment", &own, &json!({}))));
        assert!(needs[0].starts_with("a-cache/source-"), "{needs:?}");
    }

    #[test]
    fn what_pods_mount_and_name_is_needed_whatever_they_were_made_from() {
        let pod = json!({
            "containers": [{"args": ["--model", format!("/models/{NAME}")]}],
            "volumes": [{"persistentVolumeClaim": {"claimName": "one"}}, {"persistentVolumeClaim": {"claimName": "two"}}],
        });
        let found = shown(of_child(&workload("Deployment", &json!("nothing that is read today"), &pod)));
        assert_eq!(found, [format!("one/{NAME}"), format!("two/{NAME}")]);
    }

    #[test]
    fn a_job_needs_what_it_names_until_it_has_ended_and_one_that_removes_needs_nothing() {
        let job = |labels: Value, conditions: Value| {
            let pod = json!({
                "containers": [{"args": ["quantize", "/models/source-0123456789", "-o", format!("/models/{NAME}")]}],
                "volumes": [{"persistentVolumeClaim": {"claimName": "c"}}],
            });
            object(json!({
                "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "labels": labels},
                "spec": {"template": {"spec": pod}}, "status": {"conditions": conditions},
            }))
        };
        let names = [format!("c/{NAME}"), "c/source-0123456789".to_owned()];
        assert_eq!(shown(of_child(&job(json!({}), json!([])))), names);
        let done = json!([{"type": "Complete", "status": "True"}]);
        assert!(of_child(&job(json!({}), done)).is_empty());
        assert!(of_child(&job(json!({REMOVES: NAME}), json!([]))).is_empty());
    }

    #[test]
    fn a_service_needs_every_version_that_it_could_go_back_to() {
        let old = json!({"model": {"source": format!("pvc://small-model/{NAME}")}}).to_string();
        let service = object(json!({
            "apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": {"name": "a"},
            "spec": {"model": {"source": "pvc://small-model/artifact-9876543210"}},
            "status": {"rollout": {SPECS: {"r1": old, "r2": "not read"}}},
        }));
        let expected = [format!("small-model/{NAME}"), "small-model/artifact-9876543210".to_owned()];
        assert_eq!(shown(of_service(&service)), expected);
    }

    #[test]
    fn a_model_needs_what_it_makes_and_what_it_serves_meanwhile() {
        let served = |claims: &[&str]| {
            let listed: Vec<Value> =
                claims.iter().map(|claim| json!({"claim": claim, "name": NAME})).collect();
            let model = object(json!({
                "apiVersion": "wharf.dev/v1alpha1", "kind": "Model", "metadata": {"name": "small"},
                "spec": {"source": "hf://a/b"}, "status": {"path": NAME, "artifacts": listed},
            }));
            let mut needs = shown(of_model(&model));
            assert!(needs.iter().any(|need| need.starts_with("small-model/source-")), "{needs:?}");
            needs.retain(|need| need.ends_with(NAME));
            needs
        };
        let (here, before) = (format!("small-model/{NAME}"), format!("before/{NAME}"));
        assert_eq!(served(&["before"]), [before], "it has not moved yet");
        for claims in [&[][..], &["before", "small-model"]] {
            assert_eq!(served(claims), std::slice::from_ref(&here), "an older Wharf listed nothing");
        }
    }
}
