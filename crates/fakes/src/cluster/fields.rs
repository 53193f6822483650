//! Which fields an object has, as sets of paths, and the form that `metadata.managedFields` gives such sets. Pure.
//!
//! A path ends at a value that nothing inside of can be owned apart: a scalar, an atomic list or map, an empty one. An item of a
//! list that merges by keys is a member of the set itself, and so are its fields. (`FieldsV1` in the Kubernetes API reference.)

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::shape::{ListKind, Shape, identity};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// A field of a map.
    Field(String),
    /// An item of a list by its keys, as JSON.
    Key(String),
    /// An item of a set, as JSON.
    Value(String),
}

/// A place in an object.
pub(crate) type Path = Vec<Step>;
/// Places in an object.
pub(crate) type Fields = BTreeSet<Path>;

/// Fields that nobody owns.
const UNOWNED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "generateName"],
    &["metadata", "uid"],
    &["metadata", "resourceVersion"],
    &["metadata", "generation"],
    &["metadata", "creationTimestamp"],
    &["metadata", "deletionTimestamp"],
    &["metadata", "deletionGracePeriodSeconds"],
    &["metadata", "managedFields"],
    &["metadata", "selfLink"],
];

/// Every owned place of an object, and what is there. Items of lists are there as null.
pub(crate) fn leaves(object: &Value, shape: Shape<'_>) -> BTreeMap<Path, Value> {
    let mut found = BTreeMap::new();
    walk(object, shape, &mut Vec::new(), &mut found);
    found.retain(|path, _| !is_unowned(path));
    // What an object must have is not an empty map that somebody set.
    found.remove([Step::Field("metadata".to_owned())].as_slice());
    found
}

/// The places alone.
pub(crate) fn set(object: &Value, shape: Shape<'_>) -> Fields {
    leaves(object, shape).into_keys().collect()
}

fn is_unowned(path: &[Step]) -> bool {
    UNOWNED.iter().any(|unowned| {
        unowned.len() <= path.len()
            && unowned
                .iter()
                .zip(path)
                .all(|(name, step)| matches!(step, Step::Field(field) if field == name))
    })
}

fn walk(value: &Value, shape: Shape<'_>, path: &mut Path, found: &mut BTreeMap<Path, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() && !shape.is_atomic_map() => {
            for (name, value) in map {
                path.push(Step::Field(name.clone()));
                walk(value, shape.field(name), path, found);
                path.pop();
            }
        }
        Value::Array(items) if !items.is_empty() && shape.list() != ListKind::Atomic => {
            let kind = shape.list();
            for item in items {
                let Some(identity) = identity(&kind, item) else { continue };
                let step = step(&kind, &identity);
                path.push(step);
                found.insert(path.clone(), Value::Null);
                if let (ListKind::Map(_), Value::Object(fields)) = (&kind, item) {
                    if shape.is_atomic_map() {
                        found.insert(path.clone(), item.clone());
                    } else if !fields.is_empty() {
                        walk(item, shape.items(), path, found);
                    }
                }
                path.pop();
            }
        }
        other => {
            found.insert(path.clone(), other.clone());
        }
    }
}

/// The step to an item of a list.
pub(crate) fn step(list: &ListKind<'_>, identity: &Value) -> Step {
    match list {
        ListKind::Map(_) => Step::Key(sorted(identity).to_string()),
        ListKind::Set | ListKind::Atomic => Step::Value(identity.to_string()),
    }
}

/// Keys in one order, so that equal keys have equal texts.
fn sorted(identity: &Value) -> Value {
    let Value::Object(map) = identity else { return identity.clone() };
    let ordered: BTreeMap<_, _> = map.iter().collect();
    Value::Object(ordered.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// A set as `fieldsV1`.
pub(crate) fn to_json(fields: &Fields) -> Value {
    let mut root = Map::new();
    for path in fields {
        let mut at = &mut root;
        for step in path {
            let name = match step {
                Step::Field(name) => format!("f:{name}"),
                Step::Key(keys) => format!("k:{keys}"),
                Step::Value(value) => format!("v:{value}"),
            };
            let entry = at.entry(name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(inner) = entry else { unreachable!("only maps are inserted") };
            at = inner;
        }
        // A map that is owned itself, with values in it that are owned too.
        let around = || fields.range(path.clone()..).nth(1).is_some_and(|next| next.starts_with(path));
        if matches!(path.last(), Some(Step::Key(_))) || around() {
            at.insert(".".to_owned(), Value::Object(Map::new()));
        }
    }
    Value::Object(root)
}

/// A set from `fieldsV1`.
pub(crate) fn from_json(json: &Value) -> Fields {
    let mut fields = Fields::new();
    read(json, &mut Vec::new(), &mut fields);
    fields
}

fn read(json: &Value, path: &mut Path, fields: &mut Fields) {
    let Value::Object(map) = json else { return };
    if map.is_empty() && !path.is_empty() {
        fields.insert(path.clone());
    }
    for (name, inner) in map {
        let step = match name.split_once(':') {
            Some(("f", name)) => Step::Field(name.to_owned()),
            Some(("k", keys)) => Step::Key(keys.to_owned()),
            Some(("v", value)) => Step::Value(value.to_owned()),
            _ => {
                // `.` is the place itself.
                fields.insert(path.clone());
                continue;
            }
        };
        path.push(step);
        read(inner, path, fields);
        path.pop();
    }
}

/// A path as messages show it: `.spec.containers[name="a"].image`.
pub(crate) fn display(path: &[Step]) -> String {
    let step = |step: &Step| match step {
        Step::Field(name) => format!(".{name}"),
        Step::Value(value) => format!("[={value}]"),
        Step::Key(keys) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let list: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", list.join(","))
        }
    };
    path.iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}, "finalizers": ["x/y"]},
            "spec": {"nodeSelector": {"a": "b"}, "containers": [{"name": "c", "args": ["1"], "ports": [{"containerPort": 80}]}]},
        })
    }

    #[test]
    fn paths_end_at_scalars_atomic_values_and_items() {
        let paths: Vec<String> =
            set(&pod(), Shape::of("Pod", None)).iter().map(|path| display(path)).collect();
        assert_eq!(
            paths,
            [
                ".metadata.finalizers[=\"x/y\"]",
                ".metadata.labels.a",
                ".spec.containers[name=\"c\"]",
                ".spec.containers[name=\"c\"].args",
                ".spec.containers[name=\"c\"].name",
                ".spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"]",
                ".spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"].containerPort",
                ".spec.nodeSelector",
            ]
        );
    }

    #[test]
    fn fields_v1_is_read_as_it_is_written() {
        let fields = set(&pod(), Shape::of("Pod", None));
        let json = to_json(&fields);
        assert_eq!(json["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"]["."], json!({}));
        assert_eq!(from_json(&json), fields);
    }
}
