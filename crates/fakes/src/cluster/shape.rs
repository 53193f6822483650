//! How lists and maps inside objects merge: item by item, by which keys, or as a whole. Pure.
//!
//! Kubernetes' own kinds have a table here, by the name of the field; custom kinds say it in their schema (`x-kubernetes-list-type`,
//! `x-kubernetes-map-type`). A list that neither knows is one value. (Kubernetes documentation, "Server-Side Apply", "Merge strategy".)

use serde_json::Value;

/// Where in an object we are, as far as merging depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape<'a> {
    /// In a kind without a schema: the kind, the field that we are in, and the field around that.
    Table { kind: &'a str, around: &'a str, field: &'a str },
    /// In a custom kind with this schema.
    Schema(Option<&'a Value>),
}

/// How a list merges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListKind<'a> {
    /// As one value.
    Atomic,
    /// Items are their own identity.
    Set,
    /// Items are identified by these fields.
    Map(Vec<&'a str>),
}

/// Field, the field around it (or any), and the keys of its items.
const LISTS: &[(&str, &str, &[&str])] = &[
    ("containers", "", &["name"]),
    ("initContainers", "", &["name"]),
    ("ephemeralContainers", "", &["name"]),
    ("env", "", &["name"]),
    ("ports", "containers", &["containerPort", "protocol"]),
    ("ports", "initContainers", &["containerPort", "protocol"]),
    ("volumes", "", &["name"]),
    ("volumeMounts", "", &["mountPath"]),
    ("volumeDevices", "", &["devicePath"]),
    ("imagePullSecrets", "spec", &["name"]),
    ("topologySpreadConstraints", "", &["topologyKey", "whenUnsatisfiable"]),
    ("hostAliases", "", &["ip"]),
    ("schedulingGates", "", &["name"]),
    ("resourceClaims", "", &["name"]),
    ("conditions", "status", &["type"]),
    ("ownerReferences", "metadata", &["uid"]),
    ("podIPs", "status", &["ip"]),
    ("secrets", "", &["name"]),
];
/// Kinds whose `spec.ports` are those of a Service.
const SERVICE_PORTS: &[&str] = &["port", "protocol"];
const SETS: &[(&str, &str)] = &[("finalizers", "metadata")];
/// Maps and structures that are one value.
const ATOMIC_MAPS: &[&str] = &[
    "selector",
    "labelSelector",
    "podSelector",
    "namespaceSelector",
    "nodeSelector",
    "secretKeyRef",
    "configMapKeyRef",
    "fieldRef",
    "resourceFieldRef",
    "scaleTargetRef",
    "claimRef",
    "involvedObject",
    "roleRef",
];

impl<'a> Shape<'a> {
    /// The shape of a whole object.
    pub(crate) fn of(kind: &'a str, schema: Option<&'a Value>) -> Shape<'a> {
        match schema {
            Some(schema) => Shape::Schema(Some(schema)),
            None => Shape::Table { kind, around: "", field: "" },
        }
    }

    /// The shape of a field.
    pub(crate) fn field(self, name: &'a str) -> Shape<'a> {
        // Metadata has the same shape in every kind, and schemas do not describe it.
        match self {
            Shape::Table { kind, field, .. } => Shape::Table { kind, around: field, field: name },
            Shape::Schema(_) if name == "metadata" => {
                Shape::Table { kind: "", around: "", field: "metadata" }
            }
            Shape::Schema(schema) => Shape::Schema(schema.and_then(|schema| {
                schema.get("properties").and_then(|properties| properties.get(name)).or_else(|| {
                    schema.get("additionalProperties").filter(|additional| additional.is_object())
                })
            })),
        }
    }

    /// The shape of a list's items.
    pub(crate) fn items(self) -> Shape<'a> {
        match self {
            Shape::Table { .. } => self,
            Shape::Schema(schema) => Shape::Schema(schema.and_then(|schema| schema.get("items"))),
        }
    }

    /// Whether a map here is one value.
    pub(crate) fn is_atomic_map(self) -> bool {
        match self {
            Shape::Table { field, around, .. } => {
                ATOMIC_MAPS.contains(&field) || (field == "ownerReferences" && around == "metadata")
            }
            Shape::Schema(schema) => schema.is_some_and(|schema| schema["x-kubernetes-map-type"] == "atomic"),
        }
    }

    /// How a list here merges.
    pub(crate) fn list(self) -> ListKind<'a> {
        match self {
            Shape::Table { kind: "Service", around: "spec", field: "ports" } => {
                ListKind::Map(SERVICE_PORTS.to_vec())
            }
            Shape::Table { field, around, .. } => {
                let fits = |within: &str| within.is_empty() || within == around;
                if let Some((_, _, keys)) =
                    LISTS.iter().find(|(name, within, _)| *name == field && fits(within))
                {
                    ListKind::Map(keys.to_vec())
                } else if SETS.contains(&(field, around)) {
                    ListKind::Set
                } else {
                    ListKind::Atomic
                }
            }
            Shape::Schema(None) => ListKind::Atomic,
            Shape::Schema(Some(schema)) => match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => ListKind::Set,
                Some("map") => ListKind::Map(
                    schema["x-kubernetes-list-map-keys"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(Value::as_str)
                        .collect(),
                ),
                _ => ListKind::Atomic,
            },
        }
    }
}

/// What identifies an item of a list of this kind; nothing where an item has no keys.
pub(crate) fn identity(list: &ListKind<'_>, item: &Value) -> Option<Value> {
    match list {
        ListKind::Atomic => None,
        ListKind::Set => Some(item.clone()),
        ListKind::Map(keys) => {
            let mut identity = serde_json::Map::new();
            for key in keys {
                let value = match item.get(*key) {
                    Some(value) => value.clone(),
                    // The one key of Kubernetes' own kinds that has a default.
                    None if *key == "protocol" => "TCP".into(),
                    None => continue,
                };
                identity.insert((*key).to_owned(), value);
            }
            (!identity.is_empty()).then_some(Value::Object(identity))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_identified_by_where_they_are() {
        let service = Shape::of("Service", None).field("spec").field("ports");
        assert_eq!(
            identity(&service.list(), &json!({"port": 80})),
            Some(json!({"port": 80, "protocol": "TCP"}))
        );
        let pod = Shape::of("Pod", None).field("spec").field("containers").items().field("ports");
        assert_eq!(pod.list(), ListKind::Map(vec!["containerPort", "protocol"]));
        let policy = Shape::of("NetworkPolicy", None).field("spec").field("ingress").items().field("ports");
        assert_eq!(policy.list(), ListKind::Atomic);
    }

    #[test]
    fn schemas_say_how_their_lists_merge() {
        let schema = json!({"properties": {"status": {"properties": {"conditions": {
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"], "items": {}}}}}});
        let shape = Shape::of("X", Some(&schema));
        assert_eq!(shape.field("status").field("conditions").list(), ListKind::Map(vec!["type"]));
        assert_eq!(shape.field("spec").field("any").list(), ListKind::Atomic);
        assert_eq!(shape.field("metadata").field("finalizers").list(), ListKind::Set);
    }
}
