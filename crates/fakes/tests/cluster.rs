//! The API server with the client that Wharf uses.

#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams,
    PropagationPolicy, WatchEvent, WatchParams,
};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use wharf_fakes::cluster::{FakeCluster, Injected};

const SOON: Duration = Duration::from_secs(20);

async fn start() -> (FakeCluster, Client) {
    let cluster = FakeCluster::start().await.unwrap();
    let client = cluster.client();
    (cluster, client)
}

fn map(name: &str, value: &str) -> ConfigMap {
    from(json!({"metadata": {"name": name}, "data": {"key": value}}))
}

fn deployment(replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    })
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Code and reason of a refusal.
fn refusal<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String) {
    match result.unwrap_err() {
        kube::Error::Api(status) => (status.code, status.reason.clone()),
        other => panic!("{other}"),
    }
}

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
    assert_eq!((labelled.metadata.generation, labelled.status), (Some(1), None));
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
async fn a_watch_shows_what_changes_after_its_version() {
    let (cluster, client) = start().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let start = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let labelled = WatchParams::default().labels("on=yes");
    let mut all = maps.watch(&WatchParams::default(), &start).await.unwrap().boxed();
    let mut some = maps.watch(&labelled, &start).await.unwrap().boxed();
    let set = |on: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"on": on}}});
    cluster.seed(set("no"));
    cluster.seed(set("yes"));
    cluster.seed(set("no"));
    cluster.delete("ConfigMap", "a");
    cluster.send_bookmarks();
    let short = |event: WatchEvent<ConfigMap>| match event {
        WatchEvent::Added(_) => "added",
        WatchEvent::Modified(_) => "modified",
        WatchEvent::Deleted(_) => "deleted",
        WatchEvent::Bookmark(_) => "bookmark",
        WatchEvent::Error(_) => "error",
    };
    let mut seen = Vec::new();
    while seen.last() != Some(&"bookmark") {
        seen.push(short(timeout(SOON, all.try_next()).await.unwrap().unwrap().unwrap()));
    }
    assert_eq!(seen, ["added", "modified", "modified", "deleted", "bookmark"]);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.push(short(timeout(SOON, some.try_next()).await.unwrap().unwrap().unwrap()));
    }
    assert_eq!(seen, ["added", "deleted"], "an object comes and goes with its label");
    cluster.forget_history();
    let mut old = maps.watch(&WatchParams::default(), &start).await.unwrap().boxed();
    let gone = timeout(SOON, old.try_next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(gone, WatchEvent::Error(status) if status.code == 410));
}

/// Names of what a watcher holds, when it holds `wanted`.
async fn watches(client: Client, cluster: &FakeCluster, config: watcher::Config) {
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let (reader, writer) = kube::runtime::reflector::store();
    let stream = watcher(maps, config).default_backoff().reflect(writer);
    let mut stream = std::pin::pin!(stream.applied_objects());
    let mut until = async |wanted: &[&str]| {
        let held = async {
            loop {
                let mut names: Vec<String> = reader.state().iter().map(|map| map.name_any()).collect();
                names.sort();
                if names == wanted {
                    return;
                }
                // Errors are what the watcher recovers from.
                let _ = timeout(Duration::from_millis(50), stream.next()).await;
            }
        };
        timeout(SOON, held).await.unwrap_or_else(|_| panic!("never held {wanted:?}"));
    };
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    cluster.seed(map("a"));
    until(&["a"]).await;
    cluster.seed(map("b"));
    until(&["a", "b"]).await;
    cluster.cut_watches();
    cluster.delete("ConfigMap", "a");
    cluster.forget_history();
    cluster.seed(map("c"));
    until(&["b", "c"]).await;
    cluster.delete("ConfigMap", "b");
    cluster.delete("ConfigMap", "c");
}

#[tokio::test]
async fn kubes_watcher_survives_cuts_and_forgotten_history() {
    let (cluster, client) = start().await;
    watches(client.clone(), &cluster, watcher::Config::default()).await;
    watches(client, &cluster, watcher::Config::default().streaming_lists()).await;
}

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

#[tokio::test]
async fn a_definition_adds_its_kind() {
    let (cluster, client) = start().await;
    let crds: Api<
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    > = Api::all(client.clone());
    for crd in wharf_spec::crd::crds() {
        crds.create(&PostParams::default(), &from(crd)).await.unwrap();
    }
    let established = kube::runtime::wait::conditions::is_crd_established();
    let wait = kube::runtime::wait::await_condition(crds.clone(), "llmservices.wharf.dev", established);
    timeout(SOON, wait).await.unwrap().unwrap();
    let services: Api<wharf_spec::LLMService> = Api::namespaced(client.clone(), "default");
    let resource = ApiResource::erase::<wharf_spec::LLMService>(&());
    let raw: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
    let service = |spec: Value| {
        from::<DynamicObject>(json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService",
        "metadata": {"name": "assistant"}, "spec": spec}))
    };
    let wrong = raw.create(&PostParams::default(), &service(json!({"replicas": -1}))).await;
    assert_eq!(refusal(wrong), (422, "Invalid".to_owned()));
    let broken = raw.create(&PostParams::default(), &service(json!({"model": {}}))).await.unwrap_err();
    assert!(broken.to_string().contains("give either source or ref"), "{broken}");
    let spec = json!({"model": {"source": "hf://a/b"}, "typo": 1});
    let strict = PatchParams {
        field_validation: Some(kube::api::ValidationDirective::Strict),
        ..PatchParams::apply("a")
    };
    let strict = raw.patch("assistant", &strict, &Patch::Apply(service(spec.clone()))).await.unwrap_err();
    assert!(strict.to_string().contains("unknown field \"spec.typo\""), "{strict}");
    let made = raw.create(&PostParams::default(), &service(spec)).await.unwrap();
    assert_eq!(made.data["spec"], json!({"model": {"source": "hf://a/b"}, "replicas": 1}));
    let scale = Patch::Merge(json!({"spec": {"replicas": 4}}));
    services.patch_scale("assistant", &PatchParams::default(), &scale).await.unwrap();
    let status = json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "status": {"replicas": 2, "readyReplicas": 2, "selector": "a=b"}});
    services.patch_status("assistant", &PatchParams::apply("wharf"), &Patch::Apply(status)).await.unwrap();
    let scale = services.get_scale("assistant").await.unwrap();
    assert_eq!(
        (scale.spec.unwrap().replicas, scale.status.unwrap().selector.unwrap()),
        (Some(4), "a=b".to_owned())
    );
    let service = services.get("assistant").await.unwrap();
    assert_eq!((service.metadata.generation, service.spec.replicas), (Some(2), 4));
    let found = kube::discovery::group(&client, "wharf.dev").await.unwrap();
    assert_eq!(found.recommended_kind("LLMService").unwrap().0.plural, "llmservices");
    crds.delete("llmservices.wharf.dev", &DeleteParams::default()).await.unwrap();
    assert_eq!(refusal(services.get("assistant").await).0, 404);
    cluster.install("monitoring.coreos.com");
    let all = kube::Discovery::new(client).run().await.unwrap();
    assert!(all.has_group("monitoring.coreos.com") && all.has_group("apps") && all.has_group(""));
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

#[tokio::test]
async fn calls_are_recorded_and_fail_when_told() {
    let (cluster, client) = start().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    cluster.fail_next(1, "create", "ConfigMap", Injected::Status(500));
    cluster.fail_next(1, "create", "ConfigMap", Injected::CutAfter);
    cluster.forget_calls();
    assert_eq!(refusal(maps.create(&PostParams::default(), &map("a", "1")).await).0, 500);
    assert!(cluster.get("ConfigMap", "a").is_none());
    let lost = maps.create(&PostParams::default(), &map("a", "1")).await;
    assert!(!matches!(lost, Err(kube::Error::Api(_)) | Ok(_)));
    assert!(cluster.get("ConfigMap", "a").is_some(), "done, and the client cannot know");
    let calls: Vec<_> =
        cluster.calls().into_iter().map(|call| (call.verb, call.kind, call.namespace, call.code)).collect();
    let call = |code: u16| ("create", "ConfigMap".to_owned(), "default".to_owned(), code);
    assert_eq!(calls, [call(500), call(0)]);
    cluster.go_down().await;
    assert!(maps.get("a").await.is_err());
    cluster.come_back().await.unwrap();
    maps.get("a").await.unwrap();
    cluster
        .on_review(|kind, spec| json!({"authenticated": kind == "TokenReview" && spec["token"] == "good"}));
    let reviews: Api<k8s_openapi::api::authentication::v1::TokenReview> = Api::all(client);
    let review = |token: &str| from(json!({"metadata": {}, "spec": {"token": token}}));
    let good = reviews.create(&PostParams::default(), &review("good")).await.unwrap();
    assert_eq!(good.status.unwrap().authenticated, Some(true));
    let bad = reviews.create(&PostParams::default(), &review("bad")).await.unwrap();
    assert_eq!(bad.status.unwrap().authenticated, Some(false));
}

#[tokio::test]
async fn metadata_alone_can_be_had() {
    let (cluster, client) = start().await;
    cluster.seed(deployment(1));
    let deployments: Api<Deployment> = Api::namespaced(client, "default");
    let list = deployments.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(list.items[0].name_any(), "web");
    let missing = cluster
        .await_object("Deployment", "other", Duration::from_millis(10), |object| object.is_some())
        .await;
    assert!(missing.unwrap_err().to_string().contains("Deployment other did not become"));
}

#[tokio::test]
async fn controllers_run_against_it() {
    use kube::runtime::Controller;
    use kube::runtime::controller::Action;

    let (cluster, client) = start().await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let written = secrets.clone();
    let reconcile = move |map: std::sync::Arc<ConfigMap>, _: std::sync::Arc<()>| {
        let secrets = written.clone();
        async move {
            let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": map.name_any(), "uid": map.uid(), "controller": true});
            let secret = json!({"apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": map.name_any(), "ownerReferences": [owner]}, "stringData": map.data});
            secrets
                .patch(&map.name_any(), &PatchParams::apply("copier").force(), &Patch::Apply(secret))
                .await?;
            Ok::<_, kube::Error>(Action::await_change())
        }
    };
    let again = |_: std::sync::Arc<ConfigMap>, _: &kube::Error, _: std::sync::Arc<()>| {
        Action::requeue(Duration::from_millis(20))
    };
    let controller = Controller::new(maps.clone(), watcher::Config::default())
        .owns(secrets.clone(), watcher::Config::default());
    let running =
        tokio::spawn(controller.run(reconcile, again, std::sync::Arc::new(())).for_each(async |_| {}));
    cluster.fail_next(1, "patch", "Secret", Injected::Status(409));
    maps.create(&PostParams::default(), &map("a", "1")).await.unwrap();
    let data = |expected: &'static str| {
        move |secret: Option<&Value>| secret.is_some_and(|secret| secret["data"]["key"] == expected)
    };
    cluster.await_object("Secret", "a", SOON, data("MQ==")).await.unwrap();
    maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"key": "2"}}))).await.unwrap();
    cluster.await_object("Secret", "a", SOON, data("Mg==")).await.unwrap();
    cluster.cut_watches();
    cluster.delete("Secret", "a");
    cluster.await_object("Secret", "a", SOON, data("Mg==")).await.unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    cluster.await_object("Secret", "a", SOON, |secret| secret.is_none()).await.unwrap();
    running.abort();
}
