//! Whether an object of the cluster is what we want it to be. Pure.

use serde_json::Value;
use wharf_manifests::names::digest_of;

/// Digest of what was applied last: tells of fields that are wanted no longer.
pub(crate) const APPLIED: &str = "wharf.dev/applied";

/// Marks an object with the digest of itself.
pub(crate) fn mark(object: &mut Value) {
    let digest = digest_of(object);
    object["metadata"]["annotations"][APPLIED] = digest.into();
}

/// Whether a live object has everything that a marked one wants, and was made from the same.
pub(crate) fn is_as_wanted(wanted: &Value, live: &Value) -> bool {
    let of = ["metadata", "annotations", APPLIED];
    let mark = |object| of.iter().fold(object, |value: &Value, key| &value[key]);
    mark(wanted) == mark(live) && holds(wanted, live)
}

/// Whether `live` has everything that `wanted` has. Servers fill in defaults, so lists are compared item by item in their order; and they
/// keep nothing of what is empty: it is gone, or null.
pub(crate) fn holds(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().all(|(key, value)| {
            let live = live.get(key).unwrap_or(&Value::Null);
            is_empty(value) && is_empty(live) || holds(value, live)
        }),
        (Value::Array(wanted), Value::Array(live)) => {
            wanted.len() == live.len() && wanted.iter().zip(live).all(|(wanted, live)| holds(wanted, live))
        }
        _ => wanted == live,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_of_the_server_are_no_difference_and_an_edit_is() {
        let mut wanted = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}});
        mark(&mut wanted);
        let mut there = wanted.clone();
        there["spec"]["clusterIP"] = "10.0.0.1".into();
        there["spec"]["ports"][0]["protocol"] = "TCP".into();
        assert!(is_as_wanted(&wanted, &there));
        there["spec"]["ports"][0]["port"] = 81.into();
        assert!(!is_as_wanted(&wanted, &there));
    }

    #[test]
    fn what_is_empty_is_kept_by_no_server() {
        let wanted = json!({"endpoints": [], "selector": {}, "ports": [{"port": 1}]});
        assert!(holds(&wanted, &json!({"endpoints": null, "ports": [{"port": 1}]})));
        assert!(!holds(&wanted, &json!({"endpoints": [{"addresses": []}], "ports": [{"port": 1}]})));
        assert!(!holds(&wanted, &json!({"endpoints": null})));
    }

    #[test]
    fn a_field_that_is_wanted_no_longer_is_a_difference() {
        let mut before = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1", "y": "2"}});
        mark(&mut before);
        let mut wanted =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}});
        mark(&mut wanted);
        assert!(!is_as_wanted(&wanted, &before));
    }
}
