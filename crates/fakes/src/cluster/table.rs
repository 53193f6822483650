//! Objects as a table, for `kubectl get`. Pure.
//!
//! Columns of custom kinds are those of their definition; Kubernetes' own kinds have a few of theirs.

use serde_json::{Value, json};

use super::kinds::{Column, Kind};

/// Name, type and path of a column.
type Row = (&'static str, &'static str, &'static str);

/// Columns between the name and the age, by kind.
const OWN: &[(&str, &[Row])] = &[
    (
        "Pod",
        &[
            ("Status", "string", ".status.phase"),
            ("IP", "string", ".status.podIP"),
            ("Node", "string", ".spec.nodeName"),
        ],
    ),
    (
        "Deployment",
        &[
            ("Ready", "integer", ".status.readyReplicas"),
            ("Wanted", "integer", ".spec.replicas"),
            ("Up-to-date", "integer", ".status.updatedReplicas"),
            ("Available", "integer", ".status.availableReplicas"),
        ],
    ),
    ("Job", &[("Succeeded", "integer", ".status.succeeded"), ("Failed", "integer", ".status.failed")]),
    ("Service", &[("Type", "string", ".spec.type"), ("Cluster-IP", "string", ".spec.clusterIP")]),
    ("Namespace", &[("Status", "string", ".status.phase")]),
    ("PersistentVolumeClaim", &[("Status", "string", ".status.phase")]),
];

/// Columns of a kind that has no definition.
pub(crate) fn own(kind: &str) -> Vec<Column> {
    let columns = OWN.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, columns)| columns);
    let column = |(name, kind, path): &Row| Column {
        name: (*name).to_owned(),
        kind: (*kind).to_owned(),
        path: (*path).to_owned(),
    };
    let age = ("Age", "date", ".metadata.creationTimestamp");
    columns.iter().chain([&age]).map(column).collect()
}

/// The table of some objects.
pub(crate) fn of(objects: &[&Value], kind: &Kind, version: &str, metadata: &Value) -> Value {
    let columns = kind.columns(version);
    let mut head =
        vec![json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0})];
    head.extend(columns.iter().map(|column| {
        json!({"name": column.name, "type": column.kind, "format": "", "description": "", "priority": 0})
    }));
    let row = |object: &&Value| {
        let mut cells = vec![object["metadata"]["name"].clone()];
        cells.extend(columns.iter().map(|column| cell(object, column)));
        let shown = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]});
        json!({"cells": cells, "object": shown})
    };
    json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "Table", "metadata": metadata,
        "columnDefinitions": head, "rows": objects.iter().map(row).collect::<Vec<_>>(),
    })
}

fn cell(object: &Value, column: &Column) -> Value {
    let value = at(object, &column.path).cloned().unwrap_or_default();
    match (column.kind.as_str(), &value) {
        ("date", Value::String(time)) => age(time).into(),
        ("string", Value::Number(number)) => number.to_string().into(),
        _ => value,
    }
}

/// How long ago a time was.
fn age(time: &str) -> String {
    let Ok(time) = time.parse::<jiff::Timestamp>() else { return time.to_owned() };
    match jiff::Timestamp::now().as_second() - time.as_second() {
        seconds @ ..120 => format!("{seconds}s"),
        seconds @ ..7200 => format!("{}m", seconds / 60),
        seconds @ ..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// The value at a JSONPath of the forms that definitions use: `.a.b`, `.a[0]`, `.a[?(@.b=='c')].d`.
fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let Some(rest) = path.strip_prefix('.').or_else(|| path.starts_with('[').then_some(path)) else {
        return path.is_empty().then_some(object);
    };
    if let Some(inner) = rest.strip_prefix('[') {
        let (test, after) = inner.split_once(']')?;
        let items = object.as_array()?;
        let item = match test.strip_prefix("?(@.").and_then(|test| test.strip_suffix(')')) {
            Some(test) => {
                let (field, wanted) = test.split_once("==")?;
                let wanted = wanted.trim_matches(['\'', '"']);
                items.iter().find(|item| item[field] == wanted)?
            }
            None => items.get(test.parse::<usize>().ok()?)?,
        };
        return at(item, after);
    }
    let end = rest.find(['.', '[']).unwrap_or(rest.len());
    at(object.get(&rest[..end])?, &rest[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_definitions_are_followed() {
        let object = json!({"status": {"n": 3, "conditions": [{"type": "A", "status": "x"}, {"type": "Ready", "status": "True"}]}});
        let check = |path: &str| at(&object, path).cloned().unwrap_or_default();
        assert_eq!(check(".status.n"), 3);
        assert_eq!(check(".status.conditions[0].status"), "x");
        assert_eq!(check(".status.conditions[?(@.type=='Ready')].status"), "True");
        assert_eq!(check(".status.conditions[?(@.type=='Other')].status"), Value::Null);
        assert_eq!(check(".spec.n"), Value::Null);
    }
}
