//! The configuration files of the engine: one ConfigMap for each content, named by it and never changed, so that pods of two versions
//! each find their own.

use serde_json::{Value, json};

use crate::facts::Facts;
use crate::names::{self, SERVICE};

pub(super) fn objects(facts: &Facts<'_>) -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for version in &facts.state.versions {
        let of = version.released.as_deref().unwrap_or(facts.service);
        let facts = facts.of_version(of);
        let Some(config) = &facts.launch().config else { continue };
        let labels = names::labels(SERVICE, facts.name);
        let mut map = names::object("v1", "ConfigMap", &config.name, facts.namespace, labels);
        map["immutable"] = json!(true);
        map["data"] = config.data.clone();
        if !objects.contains(&map) {
            objects.push(map);
        }
    }
    objects
}
