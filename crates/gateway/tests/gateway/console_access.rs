//! Who sees what of the console.

use std::path::PathBuf;
use std::sync::Arc;

use wharf_access::keys::KeyRecord;
use wharf_api::console::{KeyView, Overview, RequestView};
use wharf_gateway::ServiceConfig;

use crate::console::{Runner, code, get, json};
use crate::support::{PATIENCE, Running, chat, config, engines, service};

async fn get_as(gateway: &Running, key: &str, path: &str) -> reqwest::Response {
    gateway.client.get(gateway.url(path)).bearer_auth(key).send().await.unwrap()
}

/// A key file in which `alice` may use everything and `bob` one model.
pub(crate) fn key_file(folder: &tempfile::TempDir) -> PathBuf {
    let sha = |secret: &str| KeyRecord::of_secret(secret, "x").sha256();
    let text = format!(
        "keys:\n- {{name: alice, sha256: \"{}\"}}\n- {{name: bob, sha256: \"{}\", models: [fake-model]}}\n",
        sha("alices-key"),
        sha("bobs-key")
    );
    let path = folder.path().join("keys");
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn whatever_the_api_tells_needs_a_key_where_keys_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let engines = engines(1).await;
    let mut config = config(vec![service(&engines)]);
    config.api_keys = Some(key_file(&folder));
    let gateway = Running::start(config);
    gateway.handle.set_console_source(Arc::new(Runner));
    let paths = [
        "overview",
        "stream",
        "history?service=demo/fake-model",
        "requests",
        "keys",
        "service/demo/fake-model/yaml",
        "service/demo/fake-model/manifests",
        "nothing",
    ];
    for path in paths {
        let path = format!("/console/api/{path}");
        assert_eq!(code(get(&gateway, &path).await).await, (401, "invalid_api_key".to_owned()), "{path}");
        assert_eq!(get_as(&gateway, "wrong", &path).await.status(), 401, "{path}");
        let right = get_as(&gateway, "alices-key", &path).await;
        let wanted = if path.ends_with("nothing") { 404 } else { 200 };
        assert_eq!(right.status(), wanted, "{path}");
        if wanted == 200 {
            assert_eq!(right.headers()["cache-control"], "no-store", "{path}");
        }
    }
}

#[tokio::test]
async fn a_key_for_some_models_sees_their_services_and_its_own_usage() {
    let folder = tempfile::tempdir().unwrap();
    let engines = engines(1).await;
    let mut secret = ServiceConfig::new("demo/secret", [engines[0].address().to_string()]);
    secret.models = vec!["secret".to_owned()];
    let mut config = config(vec![service(&engines), secret]);
    config.api_keys = Some(key_file(&folder));
    let gateway = Running::start(config);
    gateway.handle.set_console_source(Arc::new(Runner));
    for key in ["alices-key", "bobs-key", "bobs-key"] {
        let request =
            gateway.client.post(gateway.url("/v1/chat/completions")).bearer_auth(key).json(&chat("hello"));
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    gateway.idle().await;
    let names = |overview: &Overview| overview.services.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    let all: Overview = json(get_as(&gateway, "alices-key", "/console/api/overview").await).await;
    let some: Overview = json(get_as(&gateway, "bobs-key", "/console/api/overview").await).await;
    assert_eq!(names(&all), ["demo/fake-model", "demo/secret"]);
    assert_eq!(names(&some), ["demo/fake-model"]);
    let seen = async |key: &str| -> (Vec<String>, Vec<String>) {
        let requests: Vec<RequestView> = json(get_as(&gateway, key, "/console/api/requests").await).await;
        let keys: Vec<KeyView> = json(get_as(&gateway, key, "/console/api/keys").await).await;
        (requests.into_iter().map(|r| r.key).collect(), keys.into_iter().map(|k| k.name).collect())
    };
    let complete = async {
        while seen("alices-key").await.0.len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, complete).await.unwrap();
    let (requests, mut keys) = seen("alices-key").await;
    keys.sort();
    assert_eq!(
        (requests, keys),
        (
            vec!["bob".to_owned(), "bob".to_owned(), "alice".to_owned()],
            vec!["alice".to_owned(), "bob".to_owned()]
        )
    );
    assert_eq!(seen("bobs-key").await, (vec!["bob".to_owned(), "bob".to_owned()], vec!["bob".to_owned()]));
    for (path, wanted) in [
        ("history?service=demo/secret", (404, "not_found")),
        ("service/demo/secret/yaml", (404, "not_found")),
        ("service/demo/fake-model/yaml", (403, "definition_not_allowed")),
    ] {
        let answer = get_as(&gateway, "bobs-key", &format!("/console/api/{path}")).await;
        assert_eq!(code(answer).await, (wanted.0, wanted.1.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_key_that_is_taken_back_ends_its_stream() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(vec![service(&[])]);
    let path = key_file(&folder);
    config.api_keys = Some(path.clone());
    let gateway = Running::start(config);
    let mut stream = get_as(&gateway, "bobs-key", "/console/api/stream").await;
    assert!(stream.chunk().await.unwrap().is_some());
    let left = std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .filter(|line| !line.contains("bob"))
        .fold(String::new(), |text, line| text + line + "\n");
    std::fs::write(&path, left).unwrap();
    let ended = async { while stream.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the stream ends");
    assert_eq!(get_as(&gateway, "bobs-key", "/console/api/overview").await.status(), 401);
}
