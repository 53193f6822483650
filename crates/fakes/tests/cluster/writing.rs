//! Creating, reading, changing and applying objects.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::{deployment, from, map, refusal, start};

#[tokio::test]
async fn objects_are_created_read_replaced_and_deleted() {
    let (_cluster, client) = start().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let made = maps.create(&PostParams::default(), &map("a", "1")).await.unwrap();
    assert!(made.uid().is_some() && made.creation_timestamp().is_some());
    let again = maps.create(&PostParams::default(), &map("a", "1")).await;
    assert_eq!(refusal(again), (409, "AlreadyExists".to_owned()));
    let mut changed = made.clone();
    changed.data = map("a", "2").data;
    let replaced = maps.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_ne!(replaced.resource_version(), made.resource_version());
    let stale = maps.replace("a", &PostParams::default(), &changed).await;
    assert_eq!(refusal(stale), (409, "Conflict".to_owned()));
    let same = maps.replace("a", &PostParams::default(), &replaced).await.unwrap();
    assert_eq!(same.resource_version(), replaced.resource_version(), "a write of the same writes nothing");
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(refusal(maps.get("a").await), (404, "NotFound".to_owned()));
    assert!(maps.get_opt("a").await.unwrap().is_none());
    let mut named = map("", "1");
    named.metadata = ObjectMeta { generate_name: Some("run-".to_owned()), ..ObjectMeta::default() };
    let first = maps.create(&PostParams::default(), &named).await.unwrap();
    let second = maps.create(&PostParams::default(), &named).await.unwrap();
    assert!(first.name_any().starts_with("run-") && first.name_any() != second.name_any());
    let elsewhere: Api<ConfigMap> = Api::namespaced(client, "nowhere");
    let nowhere = elsewhere.create(&PostParams::default(), &map("a", "1")).await;
    assert_eq!(refusal(nowhere), (404, "NotFound".to_owned()));
}

#[tokio::test]
async fn lists_select_and_go_on_in_pages() {
    let (cluster, client) = start().await;
    for (index, tier) in ["a", "b", "a", "b"].iter().enumerate() {
        cluster.seed(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("p{index}"), "labels": {"tier": tier}}, "status": {"phase": "Running"}}));
    }
    let pods: Api<Pod> = Api::all(client);
    let names = async |params: ListParams| -> Vec<String> {
        pods.list(&params).await.unwrap().iter().map(ResourceExt::name_any).collect()
    };
    assert_eq!(names(ListParams::default().labels("tier in (a)")).await, ["p0", "p2"]);
    assert_eq!(names(ListParams::default().fields("metadata.name=p1,status.phase=Running")).await, ["p1"]);
    let page = pods.list(&ListParams::default().limit(3)).await.unwrap();
    assert_eq!((page.items.len(), page.metadata.remaining_item_count), (3, Some(1)));
    let token = page.metadata.continue_.unwrap();
    assert_eq!(names(ListParams::default().limit(3).continue_token(&token)).await, ["p3"]);
    cluster.seed(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}));
    cluster.forget_history();
    let expired = pods.list(&ListParams::default().limit(3).continue_token(&token)).await;
    assert_eq!(refusal(expired), (410, "Expired".to_owned()));
}

#[tokio::test]
async fn the_generation_counts_changes_of_the_spec_only() {
    let (_cluster, client) = start().await;
    let deployments: Api<Deployment> = Api::namespaced(client, "default");
    let made = deployments.create(&PostParams::default(), &from(deployment(1))).await.unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    let params = PatchParams::default();
    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}, "status": {"replicas": 9}}));
    let labelled = deployments.patch("web", &params, &patch).await.unwrap();
    let unwritten = Some(DeploymentStatus::default());
    assert_eq!((labelled.metadata.generation, labelled.status), (Some(1), unwritten));
    let status = Patch::Merge(json!({"status": {"replicas": 2}, "spec": {"replicas": 7}}));
    let written = deployments.patch_status("web", &params, &status).await.unwrap();
    assert_eq!(written.metadata.generation, Some(1));
    assert_eq!((written.status.unwrap().replicas, written.spec.unwrap().replicas), (Some(2), Some(1)));
    let scale = deployments.get_scale("web").await.unwrap();
    assert_eq!(scale.status.unwrap().selector.as_deref(), Some("app=web"));
    let scaled = deployments
        .patch_scale("web", &params, &Patch::Merge(json!({"spec": {"replicas": 5}})))
        .await
        .unwrap();
    assert_eq!(scaled.spec.unwrap().replicas, Some(5));
    let now = deployments.get("web").await.unwrap();
    assert_eq!((now.metadata.generation, now.spec.unwrap().replicas), (Some(2), Some(5)));
    let mut other = deployment(1);
    other["spec"]["selector"]["matchLabels"]["app"] = "b".into();
    other["spec"]["template"]["metadata"]["labels"]["app"] = "b".into();
    let refused = deployments.replace("web", &PostParams::default(), &from(other)).await;
    assert_eq!(refusal(refused), (422, "Invalid".to_owned()));
}

#[tokio::test]
async fn applied_fields_have_owners() {
    let (_cluster, client) = start().await;
    let deployments: Api<Deployment> = Api::namespaced(client, "default");
    let wharf = PatchParams::apply("wharf");
    let made = deployments.patch("web", &wharf, &Patch::Apply(deployment(1))).await.unwrap();
    let again = deployments.patch("web", &wharf, &Patch::Apply(deployment(1))).await.unwrap();
    assert_eq!(made.resource_version(), again.resource_version());
    let scaler = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 3}});
    let refused =
        deployments.patch("web", &PatchParams::apply("scaler"), &Patch::Apply(&scaler)).await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused}") };
    let cause = &status.details.unwrap().causes[0];
    assert_eq!(
        (status.code, cause.reason.as_str(), cause.field.as_str()),
        (409, "FieldManagerConflict", ".spec.replicas")
    );
    deployments.patch("web", &PatchParams::apply("scaler").force(), &Patch::Apply(&scaler)).await.unwrap();
    let mut without = deployment(1);
    without["spec"].as_object_mut().unwrap().remove("replicas");
    without["metadata"]["labels"] = json!({"new": "label"});
    let now = deployments.patch("web", &wharf, &Patch::Apply(&without)).await.unwrap();
    assert_eq!(now.spec.as_ref().unwrap().replicas, Some(3), "another owns it now");
    let managers: Vec<_> = now.managed_fields().iter().map(|entry| entry.manager.clone().unwrap()).collect();
    assert_eq!(managers, ["scaler", "wharf"]);
    without["metadata"] = json!({"name": "web"});
    let now = deployments.patch("web", &wharf, &Patch::Apply(&without)).await.unwrap();
    assert!(now.labels().is_empty(), "what its owner no longer wants is gone");
    let dry = PatchParams { dry_run: true, ..PatchParams::apply("wharf").force() };
    deployments.patch("web", &dry, &Patch::Apply(deployment(9))).await.unwrap();
    assert_eq!(deployments.get("web").await.unwrap().spec.unwrap().replicas, Some(3));
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "status": {"replicas": 3, "conditions": [{"type": "A", "status": "True"}]}});
    let written = deployments
        .patch_status("web", &PatchParams::apply("web-controller"), &Patch::Apply(status))
        .await
        .unwrap();
    let entry = written
        .managed_fields()
        .iter()
        .find(|entry| entry.manager.as_deref() == Some("web-controller"))
        .unwrap();
    assert_eq!(entry.subresource.as_deref(), Some("status"));
}

#[tokio::test]
async fn patches_of_every_kind_are_understood() {
    let (cluster, client) = start().await;
    cluster.seed(deployment(1));
    let deployments: Api<Deployment> = Api::namespaced(client, "default");
    let params = PatchParams::default();
    let containers = json!([{"name": "d", "image": "j"}]);
    let strategic = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": containers}}}}));
    let now = deployments.patch("web", &params, &strategic).await.unwrap();
    assert_eq!(now.spec.unwrap().template.spec.unwrap().containers.len(), 2);
    let operations = json!([{"op": "test", "path": "/spec/replicas", "value": 1}, {"op": "replace", "path": "/spec/replicas", "value": 2}]);
    let json = from(operations);
    deployments.patch("web", &params, &Patch::Json::<()>(Clone::clone(&json))).await.unwrap();
    let wrong = deployments.patch("web", &params, &Patch::Json::<()>(json)).await;
    assert_eq!(refusal(wrong), (422, "Invalid".to_owned()));
    let missing = deployments.patch("no", &params, &Patch::Merge(json!({}))).await;
    assert_eq!(refusal(missing).0, 404);
}

#[tokio::test]
async fn frozen_secrets_stay() {
    let (_cluster, client) = start().await;
    let secrets: Api<Secret> = Api::namespaced(client, "default");
    let secret = json!({"metadata": {"name": "s"}, "immutable": true, "stringData": {"a": "b"}});
    let made = secrets.create(&PostParams::default(), &from(secret)).await.unwrap();
    assert_eq!(made.data.unwrap()["a"].0, b"b");
    let change = Patch::Merge(json!({"stringData": {"a": "c"}}));
    assert_eq!(
        refusal(secrets.patch("s", &PatchParams::default(), &change).await),
        (422, "Invalid".to_owned())
    );
}
