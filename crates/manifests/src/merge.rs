//! Strategic merge, as `kubectl patch` has it for the lists that pods and Services have.
//!
//! Objects are merged by key, `null` removes a key, lists of things with a merge key are merged by it, and other lists are
//! replaced. (Kubernetes documentation, "Update API Objects in Place Using kubectl patch".)

use serde_json::{Map, Value};

/// Merge keys of lists, by the name of the field that holds the list; the first that an item has is used.
const MERGE_KEYS: &[(&str, &[&str])] = &[
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("env", &["name"]),
    ("volumes", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("imagePullSecrets", &["name"]),
    ("ports", &["containerPort", "port"]),
    ("topologySpreadConstraints", &["topologyKey"]),
    ("hostAliases", &["ip"]),
];

/// Merges `patch` into `target`.
pub fn strategic_merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { unreachable!("made an object above") };
    for (key, change) in patch {
        match (target.get_mut(key), change) {
            (_, Value::Null) => {
                target.remove(key);
            }
            (Some(Value::Array(items)), Value::Array(changes)) if merge_key(key, changes).is_some() => {
                let by = merge_key(key, changes).expect("the guard has seen it");
                changes.iter().for_each(|change| merge_item(items, change, by));
            }
            (Some(present), change) => strategic_merge(present, change),
            (None, change) => {
                let mut fresh = Value::Null;
                strategic_merge(&mut fresh, change);
                target.insert(key.clone(), fresh);
            }
        }
    }
}

/// The key by which a list is merged, if it is, and all changes have it.
fn merge_key(field: &str, changes: &[Value]) -> Option<&'static str> {
    let (_, keys) = MERGE_KEYS.iter().find(|(name, _)| *name == field)?;
    keys.iter().copied().find(|key| changes.iter().all(|change| !change[*key].is_null()))
}

fn merge_item(items: &mut Vec<Value>, change: &Value, by: &str) {
    let place = items.iter().position(|item| item[by] == change[by]);
    let removed = change["$patch"] == "delete";
    match (place, removed) {
        (Some(index), true) => {
            items.remove(index);
        }
        (Some(index), false) => strategic_merge(&mut items[index], change),
        (None, true) => {}
        (None, false) => items.push(change.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_merge_by_key_lists_by_name_and_null_removes() {
        let mut pod = json!({
            "spec": {
                "containers": [{"name": "server", "image": "a", "env": [{"name": "A", "value": "1"}], "args": ["x"]}],
                "nodeSelector": {"a": "b"}, "priorityClassName": "low",
            }
        });
        let patch = json!({
            "spec": {
                "containers": [
                    {"name": "server", "env": [{"name": "B", "value": "2"}], "args": ["y"]},
                    {"name": "sidecar", "image": "b"},
                ],
                "priorityClassName": null, "hostNetwork": false, "nodeSelector": {"c": "d"},
            }
        });
        strategic_merge(&mut pod, &patch);
        let expected = json!({
            "spec": {
                "containers": [
                    {"name": "server", "image": "a", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "args": ["y"]},
                    {"name": "sidecar", "image": "b"},
                ],
                "nodeSelector": {"a": "b", "c": "d"}, "hostNetwork": false,
            }
        });
        assert_eq!(pod, expected);
    }

    #[test]
    fn ports_merge_by_whichever_key_they_have_and_can_be_deleted() {
        let mut service = json!({"ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}]});
        strategic_merge(
            &mut service,
            &json!({"ports": [{"port": 80, "nodePort": 30080}, {"port": 443, "$patch": "delete"}]}),
        );
        assert_eq!(service, json!({"ports": [{"name": "http", "port": 80, "nodePort": 30080}]}));
    }
}
