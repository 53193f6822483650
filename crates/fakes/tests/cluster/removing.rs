//! What goes when something is deleted.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use serde_json::{Value, json};

use crate::{map, refusal, start};

#[tokio::test]
async fn finalizers_hold_an_object_back() {
    let (cluster, client) = start().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    cluster.seed(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "finalizers": ["wharf.dev/x"]}}));
    let going = maps.delete("a", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(going.metadata.deletion_timestamp.is_some());
    let params = PatchParams::default();
    let more = maps
        .patch("a", &params, &Patch::Merge(json!({"metadata": {"finalizers": ["wharf.dev/x", "b/c"]}})))
        .await;
    assert_eq!(refusal(more), (422, "Invalid".to_owned()));
    maps.patch("a", &params, &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

fn owned(name: &str, owners: &[&Value]) -> Value {
    let reference = |owner: &&Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": false, "blockOwnerDeletion": true})
    };
    let owners: Vec<Value> = owners.iter().map(reference).collect();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": owners}})
}

#[tokio::test]
async fn what_an_object_owned_goes_with_its_last_owner() {
    let (cluster, client) = start().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let a = cluster.seed(owned("a", &[]));
    let b = cluster.seed(owned("b", &[]));
    let child = cluster.seed(owned("child", &[&a, &b]));
    cluster.seed(owned("grandchild", &[&child]));
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(cluster.get("ConfigMap", "grandchild").is_some());
    maps.delete("b", &DeleteParams::default()).await.unwrap();
    assert_eq!(cluster.list("ConfigMap"), Vec::<Value>::new());

    let owner = cluster.seed(owned("owner", &[]));
    let mut held = owned("held", &[&owner]);
    held["metadata"]["finalizers"] = json!(["x/y"]);
    cluster.seed(held);
    let foreground =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    maps.delete("owner", &foreground).await.unwrap();
    assert!(cluster.get("ConfigMap", "owner").is_some(), "it goes after what it owns");
    maps.patch("held", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}})))
        .await
        .unwrap();
    assert_eq!(cluster.list("ConfigMap"), Vec::<Value>::new());

    let owner = cluster.seed(owned("owner", &[]));
    cluster.seed(owned("kept", &[&owner]));
    let orphan =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    maps.delete("owner", &orphan).await.unwrap();
    assert!(cluster.get("ConfigMap", "kept").is_some());
    let owner = cluster.seed(owned("owner", &[]));
    cluster.seed(owned("late", &[&owner]));
    cluster.pause_collection();
    cluster.delete("ConfigMap", "owner");
    assert!(cluster.get("ConfigMap", "late").is_some());
    cluster.resume_collection();
    assert!(cluster.get("ConfigMap", "late").is_none());
}

#[tokio::test]
async fn a_namespace_goes_when_it_is_empty() {
    let (cluster, client) = start().await;
    cluster.seed(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}));
    cluster.seed(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "team"}}),
    );
    cluster.seed(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b", "namespace": "team", "finalizers": ["x/y"]}}));
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let going = namespaces.delete("team", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(going.status.unwrap().phase.as_deref(), Some("Terminating"));
    let maps: Api<ConfigMap> = Api::namespaced(client, "team");
    assert_eq!(
        refusal(maps.create(&PostParams::default(), &map("c", "1")).await),
        (403, "Forbidden".to_owned())
    );
    maps.patch("b", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}})))
        .await
        .unwrap();
    assert!(namespaces.get_opt("team").await.unwrap().is_none());
}
