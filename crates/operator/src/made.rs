//! What a workload was made as, noted on itself: an edit by hand is seen without rendering anything, and undone to the letter, whatever Wharf
//! renders today. Pure.
//!
//! How many replicas it has is not part of it, and neither is what others add beside our fields.

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Map, Value, json};

use crate::apply::own;
use crate::live::{difference, mark};
use crate::workload::RELEASED;

/// Labels, annotations and spec as they were applied, as JSON.
const MADE: &str = "wharf.dev/made";

/// Notes on a workload how it is made.
pub(crate) fn note(workload: &mut Value) {
    let mut made = json!({
        "metadata": {"labels": workload["metadata"]["labels"], "annotations": workload["metadata"]["annotations"]},
        "spec": workload["spec"],
    });
    for (field, key) in [("/metadata/annotations", RELEASED), ("/spec", "replicas")] {
        if let Some(fields) = made.pointer_mut(field).and_then(Value::as_object_mut) {
            fields.remove(key);
        }
    }
    workload["metadata"]["annotations"][MADE] = made.to_string().into();
}

/// Forgets how a workload was made while it is still so: a note that is kept tells of an edit.
pub(crate) fn forget_unless_edited(workload: &mut DynamicObject) {
    let is_as_made = made(workload).is_some_and(|made| edit(&made, workload).is_none());
    if is_as_made {
        workload.annotations_mut().remove(MADE);
    }
}

/// A workload that somebody has edited.
pub(crate) struct Edited {
    /// The first field that is not as it was made.
    pub(crate) field: String,
    /// What is to be applied.
    pub(crate) remade: Value,
}

/// How a workload of `owner` was made, with so many replicas; none where it still is so, or where nobody noted it.
pub(crate) fn edited(owner: &DynamicObject, workload: &DynamicObject, replicas: u32) -> Option<Edited> {
    let made = made(workload)?;
    let field = edit(&made, workload)?;
    let types = workload.types.clone().unwrap_or_default();
    let mut remade = json!({"apiVersion": types.api_version, "kind": types.kind});
    remade["metadata"] = made["metadata"].clone();
    remade["metadata"]["name"] = workload.name_any().into();
    for key in [RELEASED, MADE] {
        if let Some(text) = workload.annotations().get(key) {
            remade["metadata"]["annotations"][key] = text.as_str().into();
        }
    }
    remade["spec"] = made["spec"].clone();
    remade["spec"]["replicas"] = replicas.into();
    own(owner, &mut remade);
    mark(&mut remade);
    Some(Edited { field, remade })
}

fn made(workload: &DynamicObject) -> Option<Value> {
    let made: Map<String, Value> = serde_json::from_str(workload.annotations().get(MADE)?).ok()?;
    Some(Value::Object(made))
}

fn edit(made: &Value, workload: &DynamicObject) -> Option<String> {
    let metadata = json!({"labels": workload.metadata.labels, "annotations": workload.metadata.annotations});
    let of_metadata = difference(&made["metadata"], &metadata).map(|field| format!("metadata.{field}"));
    of_metadata
        .or_else(|| difference(&made["spec"], &workload.data["spec"]).map(|field| format!("spec.{field}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: &Value) -> DynamicObject {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn deployment() -> Value {
        let mut deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a-blue", "namespace": "n", "labels": {"l": "1"}, "annotations": {RELEASED: "{}"}},
            "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "server", "image": "one"}]}}},
        });
        note(&mut deployment);
        deployment
    }

    #[test]
    fn what_is_as_it_was_made_keeps_no_note_whatever_its_replicas_and_what_others_add() {
        let mut there = deployment();
        there["spec"]["replicas"] = 7.into();
        there["metadata"]["annotations"]["theirs"] = "x".into();
        there["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "Always".into();
        let mut there = object(&there);
        forget_unless_edited(&mut there);
        assert!(!there.annotations().contains_key(MADE));
        assert!(edited(&object(&json!({"metadata": {"name": "a"}})), &there, 2).is_none());
    }

    #[test]
    fn what_is_edited_is_made_again_to_the_letter_with_the_replicas_of_today() {
        let mut there = deployment();
        there["spec"]["template"]["spec"]["containers"][0]["image"] = "two".into();
        there["metadata"]["annotations"]["theirs"] = "x".into();
        let mut there = object(&there);
        forget_unless_edited(&mut there);
        let owner = object(
            &json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": {"name": "a", "namespace": "n", "uid": "u"}}),
        );
        let Edited { field, remade } = edited(&owner, &there, 3).unwrap();
        assert_eq!(field, "spec.template.spec.containers.server.image");
        let spec = json!({"replicas": 3, "template": {"spec": {"containers": [{"name": "server", "image": "one"}]}}});
        assert_eq!(remade["spec"], spec);
        assert_eq!(
            (&remade["metadata"]["name"], &remade["metadata"]["namespace"]),
            (&json!("a-blue"), &json!("n"))
        );
        assert_eq!(remade["metadata"]["ownerReferences"][0]["uid"], "u");
        let notes = &remade["metadata"]["annotations"];
        assert_eq!((&notes[RELEASED], &notes["theirs"]), (&json!("{}"), &Value::Null));
        // It is as it was made now.
        let mut after = object(&remade);
        forget_unless_edited(&mut after);
        assert!(!after.annotations().contains_key(MADE));
    }
}
