//! How many pods may go at a time when nodes are emptied.

use serde_json::{Value, json};

use crate::facts::Facts;
use crate::names::{self, Part, SERVICE};

pub(super) fn objects(facts: &Facts<'_>) -> Vec<Value> {
    let labels = names::labels(SERVICE, facts.name);
    let mut budget = names::object("policy/v1", "PodDisruptionBudget", facts.name, facts.namespace, labels);
    budget["spec"] = json!({
        "maxUnavailable": 1,
        "selector": {"matchLabels": names::selector(SERVICE, facts.name, Part::Server)},
        // A pod that is not ready serves nobody, and must not hold up the emptying of a node.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    });
    vec![budget]
}
