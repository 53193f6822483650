//! Apply as a table: what is there, who wants what, what is there then.

use serde_json::json;

use super::*;

fn manager(name: &str, operation: Operation) -> Manager {
    Manager { name: name.to_owned(), operation, api_version: "v1".to_owned(), subresource: String::new() }
}

/// An object that several managers write to, one after the other.
struct Object {
    value: Value,
    owners: Owners,
}

impl Object {
    fn new() -> Object {
        Object { value: json!({}), owners: Owners::new() }
    }

    fn shape() -> Shape<'static> {
        Shape::of("Pod", None)
    }

    fn apply(&mut self, by: &str, wanted: Value, force: Force) -> Result<(), Vec<String>> {
        let by = manager(by, Operation::Apply);
        match apply(&self.value, &wanted, &self.owners, &by, force, Object::shape()) {
            Ok((value, owners)) => {
                (self.value, self.owners) = (value, owners);
                Ok(())
            }
            Err(causes) => {
                Err(causes.into_iter().map(|cause| format!("{}: {}", cause.message, cause.field)).collect())
            }
        }
    }

    fn update(&mut self, by: &str, new: Value) {
        let by = manager(by, Operation::Update);
        self.owners = update(&self.value, &new, &self.owners, &by, Object::shape());
        self.value = new;
    }

    fn owned_by(&self, name: &str) -> Vec<String> {
        let owned = self.owners.iter().filter(|(manager, _)| manager.name == name);
        owned.flat_map(|(_, fields)| fields.iter().map(|path| fields::display(path))).collect()
    }
}

#[test]
fn what_a_manager_no_longer_wants_goes_and_others_fields_stay() {
    let mut pod = Object::new();
    pod.apply("a", json!({"metadata": {"labels": {"x": "1", "y": "1"}}, "spec": {"host": "n"}}), Force::No)
        .unwrap();
    pod.apply("b", json!({"metadata": {"labels": {"y": "1", "z": "1"}}}), Force::No).unwrap();
    pod.apply("a", json!({"metadata": {"labels": {}}}), Force::No).unwrap();
    assert_eq!(pod.value, json!({"metadata": {"labels": {"y": "1", "z": "1"}}}));
    assert_eq!(pod.owned_by("b"), [".metadata.labels.y", ".metadata.labels.z"]);
}

#[test]
fn another_value_for_an_owned_field_is_a_conflict_unless_forced() {
    let mut pod = Object::new();
    pod.apply("a", json!({"spec": {"host": "n"}}), Force::No).unwrap();
    let refused = pod.apply("b", json!({"spec": {"host": "m"}}), Force::No).unwrap_err();
    assert_eq!(refused, ["conflict with \"a\": .spec.host"]);
    pod.apply("b", json!({"spec": {"host": "n"}}), Force::No).unwrap();
    assert_eq!(pod.owned_by("a"), [".spec.host"], "the same value is shared");
    pod.apply("b", json!({"spec": {"host": "m"}}), Force::Yes).unwrap();
    assert_eq!((pod.owned_by("a"), pod.owned_by("b")), (vec![], vec![".spec.host".to_owned()]));
}

#[test]
fn an_update_owns_what_it_changed_and_conflicts_name_its_version() {
    let mut pod = Object::new();
    pod.apply("a", json!({"spec": {"host": "n", "other": 1}}), Force::No).unwrap();
    pod.update("kubectl", json!({"spec": {"host": "m", "other": 1}}));
    assert_eq!(
        (pod.owned_by("a"), pod.owned_by("kubectl")),
        (vec![".spec.other".to_owned()], vec![".spec.host".to_owned()])
    );
    let refused = pod.apply("a", json!({"spec": {"host": "n", "other": 1}}), Force::No).unwrap_err();
    assert_eq!(refused, ["conflict with \"kubectl\" using v1: .spec.host"]);
}

#[test]
fn containers_merge_by_name_and_go_with_their_last_owner() {
    let mut pod = Object::new();
    let container = |name: &str| json!({"name": name, "image": name, "env": [{"name": "A", "value": "1"}]});
    pod.apply("a", json!({"spec": {"containers": [container("one"), container("two")]}}), Force::No).unwrap();
    pod.apply(
        "b",
        json!({"spec": {"containers": [{"name": "two", "tty": true}, container("three")]}}),
        Force::No,
    )
    .unwrap();
    pod.apply("a", json!({"spec": {"containers": [container("one")]}}), Force::No).unwrap();
    assert_eq!(
        pod.value["spec"]["containers"],
        json!([container("one"), {"name": "two", "tty": true}, container("three")])
    );
    pod.apply("b", json!({"spec": {}}), Force::No).unwrap();
    assert_eq!(pod.value["spec"]["containers"], json!([container("one")]));
}

#[test]
fn atomic_values_are_owned_whole() {
    let mut pod = Object::new();
    pod.apply("a", json!({"spec": {"nodeSelector": {"x": "1"}, "args": [1]}}), Force::No).unwrap();
    let refused = pod.apply("b", json!({"spec": {"nodeSelector": {"y": "1"}}}), Force::No).unwrap_err();
    assert_eq!(refused, ["conflict with \"a\": .spec.nodeSelector"]);
    pod.apply("b", json!({"spec": {"nodeSelector": {"y": "1"}}}), Force::Yes).unwrap();
    assert_eq!(pod.value["spec"], json!({"nodeSelector": {"y": "1"}, "args": [1]}));
}

#[test]
fn owners_survive_being_written_into_the_object() {
    let mut pod = Object::new();
    pod.apply(
        "a",
        json!({"metadata": {"finalizers": ["x/y"]}, "spec": {"containers": [{"name": "c"}]}}),
        Force::No,
    )
    .unwrap();
    set_owners(&mut pod.value, &pod.owners, "2026-01-01T00:00:00Z");
    assert_eq!(owners(&pod.value), pod.owners);
    set_owners(&mut pod.value, &pod.owners, "2027-01-01T00:00:00Z");
    assert_eq!(pod.value["metadata"]["managedFields"][0]["time"], "2026-01-01T00:00:00Z");
}
