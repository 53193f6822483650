//! The volume that Jobs fill and servers read.

use serde_json::{Map, Value, json};
use wharf_spec::Model;
use wharf_spec::service::Cache;

use crate::facts::{Facts, Files};
use crate::names::{self, MODEL, SERVICE};

pub(super) fn of_service(facts: &Facts<'_>) -> Vec<Value> {
    let cache = &facts.spec.model.cache;
    match (&facts.files, &cache.claim_name) {
        (Files::OwnClaim(name), None) => {
            vec![claim(name, facts.namespace, names::labels(SERVICE, facts.name), cache)]
        }
        _ => Vec::new(),
    }
}

/// Name of the claim of a Model.
pub(crate) fn of_model_name(model: &str) -> String {
    names::child(model, "model")
}

pub(super) fn of_model(model: &Model) -> Vec<Value> {
    let name = model.metadata.name.as_deref().unwrap_or_default();
    if model.spec.cache.claim_name.is_some() {
        return Vec::new();
    }
    let labels = names::labels(MODEL, name);
    vec![claim(&of_model_name(name), model.metadata.namespace.as_deref(), labels, &model.spec.cache)]
}

fn claim(name: &str, namespace: Option<&str>, labels: Map<String, Value>, cache: &Cache) -> Value {
    let mut claim = names::object("v1", "PersistentVolumeClaim", name, namespace, labels);
    claim["spec"] = json!({
        "accessModes": [cache.access_mode.name()],
        "resources": {"requests": {"storage": cache.size.as_str()}},
    });
    if let Some(class) = &cache.storage_class {
        claim["spec"]["storageClassName"] = class.as_str().into();
    }
    claim
}
