//! How objects are shown to a client: whole, their metadata alone, or as a table. Pure.

use serde_json::{Value, json};

use super::kinds::{Kind, Scale};
use super::table;

/// What a client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Whole,
    Metadata,
    Table,
}

impl View {
    pub(crate) fn of(accept: &str) -> View {
        match accept.split(',').next().unwrap_or("") {
            first if first.contains("as=PartialObjectMetadata") => View::Metadata,
            first if first.contains("as=Table") => View::Table,
            _ => View::Whole,
        }
    }
}

/// One object, at the version that the client asked for.
pub(crate) fn one(object: &Value, kind: &Kind, version: &str, view: View) -> Value {
    match view {
        View::Whole => at_version(object, kind, version),
        View::Metadata => json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"],
        }),
        View::Table => table::of(
            &[object],
            kind,
            version,
            &json!({"resourceVersion": object["metadata"]["resourceVersion"]}),
        ),
    }
}

/// Many objects, and where a list goes on.
pub(crate) fn many(objects: &[&Value], kind: &Kind, version: &str, view: View, metadata: Value) -> Value {
    match view {
        View::Table => table::of(objects, kind, version, &metadata),
        View::Whole => {
            let mut items: Vec<Value> =
                objects.iter().map(|object| at_version(object, kind, version)).collect();
            if !kind.custom {
                // Kubernetes' own kinds are typed there, and a list says what its items are.
                let typed = items.iter_mut().filter_map(Value::as_object_mut);
                typed.for_each(|item| {
                    ["apiVersion", "kind"].iter().for_each(|field| drop(item.remove(*field)))
                });
            }
            let (api_version, list) = (kind.api_version(version), format!("{}List", kind.kind));
            json!({"apiVersion": api_version, "kind": list, "metadata": metadata, "items": items})
        }
        View::Metadata => {
            let items: Vec<Value> = objects.iter().map(|object| one(object, kind, version, view)).collect();
            json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": metadata, "items": items,
            })
        }
    }
}

fn at_version(object: &Value, kind: &Kind, version: &str) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = kind.api_version(version).into();
    object["kind"] = kind.kind.clone().into();
    object
}

/// What the scale subresource shows of an object.
pub(crate) fn scale(object: &Value, paths: &Scale) -> Value {
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let selector = match &paths.selector {
        Some(path) => object.pointer(path).and_then(Value::as_str).map(str::to_owned),
        None => Some(super::selector::label_selector_text(&object["spec"]["selector"])),
    };
    let mut status = json!({"replicas": number(&paths.actual)});
    if let Some(selector) = selector {
        status["selector"] = selector.into();
    }
    let metadata = &object["metadata"];
    let mut shown = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata.get(field) {
            shown.insert(field.to_owned(), value.clone());
        }
    }
    json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": shown,
        "spec": {"replicas": number(&paths.replicas)},
        "status": status,
    })
}
