//! The API server with the client that Wharf uses.

#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

mod kinds;
mod removing;
mod watching;
mod writing;

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use serde_json::{Value, json};
use wharf_fakes::cluster::FakeCluster;

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
