//! Patches other than apply: JSON patch, merge patch and strategic merge patch. Pure.

use serde_json::{Map, Value};

use super::failure::Failure;
use super::shape::{ListKind, Shape, identity};

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchKind {
    /// What the `Content-Type` of a PATCH says.
    pub(crate) fn of(content_type: &str) -> Option<PatchKind> {
        match content_type.split(';').next().unwrap_or("").trim() {
            "application/json-patch+json" => Some(PatchKind::Json),
            "application/merge-patch+json" => Some(PatchKind::Merge),
            "application/strategic-merge-patch+json" => Some(PatchKind::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+json" => Some(PatchKind::Apply),
            _ => None,
        }
    }
}

/// The object after a patch. An apply patch is none that this function knows: it depends on owners.
pub(crate) fn patch(
    object: &Value,
    kind: PatchKind,
    body: &Value,
    shape: Shape<'_>,
) -> Result<Value, Failure> {
    let mut new = object.clone();
    match kind {
        PatchKind::Json => {
            let operations = serde_json::from_value::<json_patch::Patch>(body.clone())
                .map_err(|e| Failure::bad_request(format!("the JSON patch cannot be read: {e}")))?;
            json_patch::patch(&mut new, &operations).map_err(|e| {
                Failure::new(422, "Invalid", format!("the JSON patch cannot be applied: {e}"))
            })?;
        }
        PatchKind::Merge => json_patch::merge(&mut new, body),
        PatchKind::Strategic if matches!(shape, Shape::Schema(_)) => {
            return Err(Failure::unsupported_media("application/strategic-merge-patch+json"));
        }
        PatchKind::Strategic => strategic(&mut new, body, shape),
        PatchKind::Apply => return Err(Failure::bad_request("an apply patch has owners")),
    }
    Ok(new)
}

fn strategic(target: &mut Value, change: &Value, shape: Shape<'_>) {
    let Value::Object(changes) = change else {
        *target = change.clone();
        return;
    };
    if !target.is_object() || change["$patch"] == "replace" {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, change) in changes {
        if name.starts_with('$') {
            continue;
        }
        let inner = shape.field(name);
        match (target.get_mut(name), change) {
            (_, Value::Null) => {
                target.remove(name);
            }
            (Some(Value::Array(items)), Value::Array(changes)) if inner.list() != ListKind::Atomic => {
                changes.iter().for_each(|change| strategic_item(items, change, inner));
            }
            (Some(present), change) => strategic(present, change, inner),
            (None, Value::Array(changes)) => {
                let kept = changes.iter().filter(|change| change["$patch"] != "delete");
                target.insert(name.clone(), kept.cloned().collect());
            }
            (None, change) => {
                let mut fresh = Value::Null;
                strategic(&mut fresh, change, inner);
                target.insert(name.clone(), fresh);
            }
        }
    }
}

fn strategic_item(items: &mut Vec<Value>, change: &Value, shape: Shape<'_>) {
    let kind = shape.list();
    let id = identity(&kind, change);
    let place = items.iter().position(|item| id.is_some() && matches(&kind, item, change));
    match (place, change["$patch"] == "delete") {
        (Some(index), true) => {
            items.remove(index);
        }
        (Some(index), false) => strategic(&mut items[index], change, shape.items()),
        (None, true) => {}
        (None, false) => items.push(change.clone()),
    }
}

/// Whether a change means an item. A strategic merge patch identifies ports by their first key alone.
fn matches(kind: &ListKind<'_>, item: &Value, change: &Value) -> bool {
    match kind {
        ListKind::Map(keys) => keys.first().is_some_and(|key| item[*key] == change[*key]),
        ListKind::Set | ListKind::Atomic => item == change,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(kind: PatchKind, body: Value) -> Value {
        let pod = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "c", "image": "x", "args": ["1"]}]}});
        patch(&pod, kind, &body, Shape::of("Pod", None)).unwrap()
    }

    #[test]
    fn a_merge_patch_replaces_lists_and_null_removes() {
        let new = check(
            PatchKind::Merge,
            json!({"metadata": {"labels": {"a": null, "b": "2"}}, "spec": {"containers": []}}),
        );
        assert_eq!(new, json!({"metadata": {"labels": {"b": "2"}}, "spec": {"containers": []}}));
    }

    #[test]
    fn a_strategic_patch_merges_containers_by_name() {
        let body = json!({"spec": {"containers": [{"name": "c", "image": "y"}, {"name": "d"}]}});
        let new = check(PatchKind::Strategic, body);
        assert_eq!(
            new["spec"]["containers"],
            json!([{"name": "c", "image": "y", "args": ["1"]}, {"name": "d"}])
        );
        let gone =
            check(PatchKind::Strategic, json!({"spec": {"containers": [{"name": "c", "$patch": "delete"}]}}));
        assert_eq!(gone["spec"]["containers"], json!([]));
    }

    #[test]
    fn a_json_patch_that_tests_wrong_is_refused() {
        let new =
            check(PatchKind::Json, json!([{"op": "replace", "path": "/metadata/labels/a", "value": "2"}]));
        assert_eq!(new["metadata"]["labels"]["a"], "2");
        let wrong = json!([{"op": "test", "path": "/metadata", "value": 1}]);
        assert_eq!(patch(&json!({}), PatchKind::Json, &wrong, Shape::of("Pod", None)).unwrap_err().code, 422);
    }
}
