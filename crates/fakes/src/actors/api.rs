//! Kinds that actors read and write, as JSON through a client.

use std::hash::{DefaultHasher, Hash, Hasher};

use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::{Api, Client};
use serde_json::{Value, json};

/// All objects of one kind, in every namespace.
#[derive(Clone)]
pub(crate) struct Things {
    client: Client,
    resource: ApiResource,
    all: Api<DynamicObject>,
    /// The field manager of writes.
    manager: &'static str,
}

impl Things {
    fn new<K: kube::Resource<DynamicType = ()>>(client: &Client, manager: &'static str) -> Things {
        Things::with(client, ApiResource::erase::<K>(&()), manager)
    }

    fn with(client: &Client, resource: ApiResource, manager: &'static str) -> Things {
        let all = Api::all_with(client.clone(), &resource);
        Things { client: client.clone(), resource, all, manager }
    }

    pub(crate) fn deployments(client: &Client) -> Things {
        Things::new::<k8s_openapi::api::apps::v1::Deployment>(client, "deployment-controller")
    }

    pub(crate) fn pods(client: &Client) -> Things {
        Things::new::<k8s_openapi::api::core::v1::Pod>(client, "kubelet")
    }

    pub(crate) fn services(client: &Client) -> Things {
        Things::new::<k8s_openapi::api::core::v1::Service>(client, "endpointslice-controller")
    }

    pub(crate) fn slices(client: &Client) -> Things {
        Things::new::<k8s_openapi::api::discovery::v1::EndpointSlice>(client, "endpointslice-controller")
    }

    pub(crate) fn jobs(client: &Client) -> Things {
        Things::new::<k8s_openapi::api::batch::v1::Job>(client, "job-controller")
    }

    pub(crate) fn groups(client: &Client) -> Things {
        let kind = GroupVersionKind::gvk("leaderworkerset.x-k8s.io", "v1", "LeaderWorkerSet");
        Things::with(client, ApiResource::from_gvk(&kind), "lws-controller")
    }

    pub(crate) fn api(&self) -> &Api<DynamicObject> {
        &self.all
    }

    fn of(&self, object: &Value) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), text(&object["metadata"]["namespace"]), &self.resource)
    }

    /// Everything of the kind, in the order of names.
    pub(crate) async fn list(&self) -> kube::Result<Vec<Value>> {
        let list = self.all.list(&ListParams::default()).await?;
        let mut objects = Vec::with_capacity(list.items.len());
        for object in list.items {
            let mut object = serde_json::to_value(object).map_err(kube::Error::SerdeError)?;
            // Items of Kubernetes' own lists do not say what they are.
            object["apiVersion"] = self.resource.api_version.clone().into();
            object["kind"] = self.resource.kind.clone().into();
            objects.push(object);
        }
        Ok(objects)
    }

    pub(crate) async fn create(&self, object: &Value) -> kube::Result<()> {
        let read = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
        let params = PostParams { field_manager: Some(self.manager.to_owned()), ..PostParams::default() };
        self.of(object).create(&params, &read).await.map(drop)
    }

    /// Applies an object that nobody else writes.
    pub(crate) async fn apply(&self, object: &Value) -> kube::Result<()> {
        let params = PatchParams::apply(self.manager).force();
        self.of(object)
            .patch(text(&object["metadata"]["name"]), &params, &Patch::Apply(object))
            .await
            .map(drop)
    }

    /// Replaces fields of an object, unless it is gone.
    pub(crate) async fn change(&self, object: &Value, change: &Value) -> kube::Result<()> {
        let params = PatchParams { field_manager: Some(self.manager.to_owned()), ..PatchParams::default() };
        let name = text(&object["metadata"]["name"]);
        unless_gone(self.of(object).patch(name, &params, &Patch::Merge(change)).await.map(drop))
    }

    /// Replaces fields of an object's status, where they differ and unless it is gone.
    pub(crate) async fn change_status(&self, object: &Value, status: &Value) -> kube::Result<()> {
        if has(&object["status"], status) {
            return Ok(());
        }
        let params = PatchParams { field_manager: Some(self.manager.to_owned()), ..PatchParams::default() };
        let name = text(&object["metadata"]["name"]);
        let change = Patch::Merge(json!({"status": status}));
        unless_gone(self.of(object).patch_status(name, &params, &change).await.map(drop))
    }

    /// Deletes an object as a controller does, unless it is gone.
    pub(crate) async fn delete(&self, object: &Value) -> kube::Result<()> {
        self.delete_with(object, &DeleteParams::default()).await
    }

    /// Deletes an object for good, unless it is gone.
    pub(crate) async fn delete_now(&self, object: &Value) -> kube::Result<()> {
        self.delete_with(object, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() })
            .await
    }

    async fn delete_with(&self, object: &Value, params: &DeleteParams) -> kube::Result<()> {
        let uid = object["metadata"]["uid"].as_str().map(str::to_owned);
        let preconditions = kube::api::Preconditions { uid, resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..params.clone() };
        unless_gone(self.of(object).delete(text(&object["metadata"]["name"]), &params).await.map(drop))
    }

    /// Puts a pod on a node, unless it is gone.
    pub(crate) async fn bind(&self, pod: &Value, node: &str) -> kube::Result<()> {
        let name = text(&pod["metadata"]["name"]);
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let bound: kube::Result<Value> =
            self.of(pod).create_subresource("binding", name, &PostParams::default(), &binding).await;
        unless_gone(bound.map(drop))
    }
}

fn unless_gone(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        // The uid may have changed: another object has the name now.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other,
    }
}

/// The text of a value, empty where it is none.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

/// Whether a condition of an object is true.
pub(crate) fn is_true(object: &Value, condition: &str) -> bool {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|known| known["type"] == condition && known["status"] == "True")
}

/// Conditions, each with the time at which it came to have its status.
pub(crate) fn conditions(object: &Value, wanted: &[(&str, bool, &str, &str)]) -> Value {
    let known = object["status"]["conditions"].as_array();
    let condition = |(kind, holds, reason, message): &(&str, bool, &str, &str)| {
        let status = if *holds { "True" } else { "False" };
        let before =
            known.into_iter().flatten().find(|known| known["type"] == *kind && known["status"] == status);
        let since = before.map_or_else(|| now().into(), |before| before["lastTransitionTime"].clone());
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since})
    };
    wanted.iter().map(condition).collect()
}

/// Whether all of `wanted` is there. A real server adds fields and leaves out empty ones.
fn has(there: &Value, wanted: &Value) -> bool {
    match wanted {
        Value::Object(fields) => fields.iter().all(|(name, value)| has(&there[name], value)),
        Value::Array(items) => match there.as_array() {
            Some(known) => known.len() == items.len() && known.iter().zip(items).all(|(a, b)| has(a, b)),
            None => items.is_empty(),
        },
        Value::String(text) if text.is_empty() => there.is_null() || there == wanted,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => there == wanted,
    }
}

/// A reference to the controller of what it makes.
pub(crate) fn controlled_by(owner: &Value) -> Value {
    json!([{
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
    }])
}

pub(crate) fn is_controlled_by(object: &Value, owner: &Value) -> bool {
    let mut owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.any(|reference| reference["controller"] == true && reference["uid"] == owner["metadata"]["uid"])
}

/// The time, as objects have it.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A short name for a value: equal ones have equal names.
pub(crate) fn hash(value: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    format!("{:08x}", hasher.finish() & 0xffff_ffff)
}

/// A number of things.
pub(crate) fn count(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|count| usize::try_from(count).ok())
}

/// A Pod from a template, without a name.
pub(crate) fn pod(template: &Value, owner: &Value, labels: &[(&str, String)]) -> Value {
    let mut metadata = json!({
        "namespace": owner["metadata"]["namespace"], "labels": template["metadata"]["labels"],
        "ownerReferences": controlled_by(owner),
    });
    for (name, value) in labels {
        metadata["labels"][*name] = value.clone().into();
    }
    if template["metadata"]["annotations"].is_object() {
        metadata["annotations"] = template["metadata"]["annotations"].clone();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_adds_or_leaves_out_is_no_reason_to_write() {
        let wanted = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "message": ""}], "last": {}, "volumes": []});
        let there = json!({"phase": "Running", "qosClass": "Burstable", "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null}]});
        assert!(has(&there, &wanted));
        for (field, other) in [
            ("/phase", json!("Pending")),
            ("/conditions/0/status", json!("False")),
            ("/conditions/0/message", json!("no")),
            ("/conditions", json!([])),
            ("/last", json!({"code": 1})),
        ] {
            let mut wanted = wanted.clone();
            *wanted.pointer_mut(field).unwrap() = other;
            assert!(!has(&there, &wanted), "{field}");
        }
    }
}
