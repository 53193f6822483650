//! Lists that stay fresh: watches, watchers, controllers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use wharf_fakes::cluster::{FakeCluster, Injected};

use crate::{SOON, map, start};

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
async fn controllers_run_against_it() {
    use kube::runtime::Controller;
    use kube::runtime::controller::Action;

    let (cluster, client) = start().await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let written = secrets.clone();
    let reconcile = move |map: Arc<ConfigMap>, _: Arc<()>| {
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
    let again = |_: Arc<ConfigMap>, _: &kube::Error, _: Arc<()>| Action::requeue(Duration::from_millis(20));
    let controller = Controller::new(maps.clone(), watcher::Config::default())
        .owns(secrets.clone(), watcher::Config::default());
    let running = tokio::spawn(controller.run(reconcile, again, Arc::new(())).for_each(async |_| {}));
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
