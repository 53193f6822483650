//! The configuration files of the engine: one ConfigMap for each content, named by it and never changed, so that pods of two versions
//! each find their own.

use serde_json::{Value, json};

use crate::facts::Facts;
use crate::names::{self, SERVICE};

/// Name of the ConfigMap of an engine that is started so; none where it reads no files.
pub(super) fn name(facts: &Facts<'_>) -> Option<String> {
    let config = facts.launch().config?;
    Some(names::child(facts.name, &format!("config-{}", names::digest_of(&config))))
}

pub(super) fn objects(facts: &Facts<'_>) -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for version in &facts.state.versions {
        let of = version.released.as_deref().unwrap_or(facts.service);
        let facts = facts.of_version(of);
        let (Some(name), Some(data)) = (name(&facts), facts.launch().config) else { continue };
        let mut map =
            names::object("v1", "ConfigMap", &name, facts.namespace, names::labels(SERVICE, facts.name));
        map["immutable"] = json!(true);
        map["data"] = data;
        if !objects.contains(&map) {
            objects.push(map);
        }
    }
    objects
}
