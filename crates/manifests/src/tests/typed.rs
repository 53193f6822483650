//! Every object of Kubernetes' own kinds against its published types: a field that is misspelt or in the wrong place would be lost on
//! the way through them.

use k8s_openapi::api::{apps, autoscaling, batch, core, networking, policy, rbac};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::examples::{all, rendered};
use super::*;

fn through<T: Serialize + DeserializeOwned>(object: &Value) -> Value {
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
    serde_json::to_value(typed).unwrap()
}

/// The object after it has been through its type; `None` for kinds of others, which `cargo xtask verify-manifests` checks.
fn typed(object: &Value) -> Option<Value> {
    let api_version = object["apiVersion"].as_str().unwrap();
    let kind = object["kind"].as_str().unwrap();
    Some(match (api_version, kind) {
        ("v1", "ServiceAccount") => through::<core::v1::ServiceAccount>(object),
        ("v1", "Service") => through::<core::v1::Service>(object),
        ("v1", "ConfigMap") => through::<core::v1::ConfigMap>(object),
        ("v1", "PersistentVolumeClaim") => through::<core::v1::PersistentVolumeClaim>(object),
        ("apps/v1", "Deployment") => through::<apps::v1::Deployment>(object),
        ("batch/v1", "Job") => through::<batch::v1::Job>(object),
        ("autoscaling/v2", "HorizontalPodAutoscaler") => {
            through::<autoscaling::v2::HorizontalPodAutoscaler>(object)
        }
        ("networking.k8s.io/v1", "NetworkPolicy") => through::<networking::v1::NetworkPolicy>(object),
        ("networking.k8s.io/v1", "Ingress") => through::<networking::v1::Ingress>(object),
        ("policy/v1", "PodDisruptionBudget") => through::<policy::v1::PodDisruptionBudget>(object),
        ("rbac.authorization.k8s.io/v1", "Role") => through::<rbac::v1::Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => through::<rbac::v1::RoleBinding>(object),
        (
            "leaderworkerset.x-k8s.io/v1"
            | "keda.sh/v1alpha1"
            | "monitoring.coreos.com/v1"
            | "gateway.networking.k8s.io/v1"
            | "inference.networking.k8s.io/v1",
            _,
        ) => return None,
        other => panic!("nobody checks {other:?}"),
    })
}

/// What the types write though we do not: nothing but emptiness.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().map(|(key, value)| (key.clone(), without_empty(value)));
            Value::Object(kept.filter(|(_, value)| !value.is_null()).collect())
        }
        Value::Array(items) => items.iter().map(without_empty).collect(),
        other => other.clone(),
    }
}

/// Panics where an object says what its type does not know.
pub(super) fn loses_nothing(object: &Value, about: &str) {
    let Some(back) = typed(object) else { return };
    assert_eq!(without_empty(&back), without_empty(object), "{about}");
}

#[test]
fn no_field_is_lost_on_the_way_through_the_types_of_kubernetes() {
    for (name, text) in all() {
        for mode in [Mode::Managed, Mode::Standalone] {
            rendered(&text, mode).iter().for_each(|object| loses_nothing(object, &name));
        }
    }
}
