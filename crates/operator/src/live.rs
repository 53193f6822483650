//! Whether an object of the cluster is what we want it to be. Pure.

use serde_json::Value;
use wharf_manifests::names::digest_of;
use wharf_spec::scalar::Quantity;

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

/// Whether `live` has everything that `wanted` has.
pub(crate) fn holds(wanted: &Value, live: &Value) -> bool {
    difference(wanted, live).is_none()
}

/// Lists of pods whose items have names, by which others may add items beside ours: the field, and the field that is the name.
const NAMED: [(&str, &str); 6] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("env", "name"),
    ("volumes", "name"),
    ("imagePullSecrets", "name"),
    ("volumeMounts", "mountPath"),
];

/// The first field of `wanted` that `live` does not have so, as `spec.replicas`. Servers fill in defaults, keep nothing of what is empty or zero
/// by nature, and write amounts in their own way; items of lists without names are compared in their order.
pub(crate) fn difference(wanted: &Value, live: &Value) -> Option<String> {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().find_map(|(key, value)| {
            let live = live.get(key).unwrap_or(&Value::Null);
            let inner = match key.as_str() {
                _ if is_left_out(value, live) => None,
                "limits" | "requests" => of_amounts(value, live),
                "sizeLimit" if is_same_amount(value, live) => None,
                _ => match NAMED.iter().find(|(list, _)| list == key) {
                    Some((_, name)) => of_named(name, value, live),
                    None => difference(value, live),
                },
            };
            inner.map(|inner| under(key, &inner))
        }),
        (Value::Array(wanted), Value::Array(live)) if wanted.len() == live.len() => {
            let items = wanted.iter().zip(live).enumerate();
            let mut inner = items.filter_map(|(at, (wanted, live))| Some((at, difference(wanted, live)?)));
            inner.next().map(|(at, inner)| under(&at.to_string(), &inner))
        }
        _ => (wanted != live).then(String::new),
    }
}

fn of_named(name: &str, wanted: &Value, live: &Value) -> Option<String> {
    let (Value::Array(wanted), Value::Array(live)) = (wanted, live) else { return difference(wanted, live) };
    wanted.iter().find_map(|item| {
        let there = live.iter().find(|there| there[name] == item[name]).unwrap_or(&Value::Null);
        let inner = difference(item, there)?;
        Some(under(item[name].as_str().unwrap_or_default(), &inner))
    })
}

fn of_amounts(wanted: &Value, live: &Value) -> Option<String> {
    let (Value::Object(amounts), Value::Object(_)) = (wanted, live) else { return difference(wanted, live) };
    let other = amounts.iter().find(|(key, amount)| !is_same_amount(amount, &live[key.as_str()]));
    other.map(|(key, _)| key.clone())
}

/// `1000m` of a CPU is one, and a server says it so.
fn is_same_amount(wanted: &Value, live: &Value) -> bool {
    let amount = |value: &Value| match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    wanted == live || amount(wanted).is_some_and(|wanted| amount(live) == Some(wanted))
}

fn under(key: &str, inner: &str) -> String {
    if inner.is_empty() { key.to_owned() } else { format!("{key}.{inner}") }
}

/// Whether a server keeps nothing of this value, and has kept nothing.
fn is_left_out(wanted: &Value, live: &Value) -> bool {
    match wanted {
        Value::Null => is_empty(live),
        Value::Array(items) => items.is_empty() && is_empty(live),
        Value::Object(fields) => fields.is_empty() && is_empty(live),
        Value::Bool(is) => !is && live.is_null(),
        Value::Number(number) => number.as_i64() == Some(0) && live.is_null(),
        Value::String(text) => text.is_empty() && live.is_null(),
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
    fn what_is_zero_by_nature_and_other_words_for_an_amount_are_no_difference() {
        let wanted = json!({"env": [{"name": "A", "value": ""}], "hostNetwork": false, "period": 0,
            "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}}, "emptyDir": {"sizeLimit": "1024Mi"}});
        let live = json!({"env": [{"name": "A"}], "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}, "emptyDir": {"sizeLimit": "1Gi"}});
        assert_eq!(difference(&wanted, &live), None);
        let less = json!({"resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}});
        assert_eq!(
            difference(&json!({"resources": wanted["resources"]}), &less),
            Some("resources.limits.cpu".to_owned())
        );
        assert_eq!(
            difference(&json!({"a": "1000m"}), &json!({"a": "1"})),
            Some("a".to_owned()),
            "only amounts"
        );
        assert_eq!(difference(&json!({"period": 0}), &json!({"period": 3})), Some("period".to_owned()));
    }

    #[test]
    fn others_may_add_to_lists_with_names_and_what_they_change_of_ours_is_told_by_its_path() {
        let pod = |env: Value, args: Value| json!({"spec": {"containers": [{"name": "server", "env": env, "args": args}]}});
        let wanted = pod(json!([{"name": "A", "value": "1"}]), json!(["serve"]));
        let mut added =
            pod(json!([{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]), json!(["serve"]));
        added["spec"]["containers"].as_array_mut().unwrap().insert(0, json!({"name": "sidecar"}));
        assert_eq!(difference(&wanted, &added), None);
        let cases = [
            (
                pod(json!([{"name": "A", "value": "2"}]), json!(["serve"])),
                "spec.containers.server.env.A.value",
            ),
            (pod(json!([{"name": "B", "value": "1"}]), json!(["serve"])), "spec.containers.server.env.A"),
            (
                pod(json!([{"name": "A", "value": "1"}]), json!(["serve", "--more"])),
                "spec.containers.server.args",
            ),
            (pod(json!([{"name": "A", "value": "1"}]), json!(["other"])), "spec.containers.server.args.0"),
            (json!({"spec": {"containers": []}}), "spec.containers.server"),
        ];
        for (live, path) in cases {
            assert_eq!(difference(&wanted, &live).as_deref(), Some(path));
        }
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
