//! The API server in memory answers as a real one did: the same requests, and what a real server answered them, are kept in
//! `recorded/kubernetes-1.36.json`. To record anew: `KUBEBUILDER_ASSETS=… UPDATE_EXPECT=1 cargo test -p wharf-fakes --test recorded`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "recorded/requests.rs"]
mod requests;

use http::Request;
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use wharf_fakes::stage::Stage;

use requests::{Asked, all};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recorded/kubernetes-1.36.json");

/// Fields that a real server answers and the one in memory does not, by their path without indices: nobody who is tested reads them.
const NOT_IN_MEMORY: &[&str] = &[
    "message",
    "details",
    "spec.clusterIP",
    "spec.clusterIPs",
    "spec.ipFamilies",
    "spec.ipFamilyPolicy",
    "spec.internalTrafficPolicy",
    "spec.sessionAffinity",
];

async fn ask(client: &Client, asked: &Asked) -> Value {
    let body = if asked.body.is_null() { Vec::new() } else { serde_json::to_vec(&asked.body).unwrap() };
    let request = Request::builder()
        .method(asked.method)
        .uri(&asked.path)
        .header("content-type", asked.content_type)
        .header("accept", "application/json")
        .body(Body::from(body))
        .unwrap();
    let answer = client.send(request).await.unwrap();
    let status = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    let text = || String::from_utf8_lossy(&bytes).trim().into();
    json!({"status": status, "body": plain(serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))})
}

/// Without what differs from run to run.
fn plain(value: Value) -> Value {
    let mut value = match value["metadata"]["uid"].as_str() {
        // A Job has its own in labels too.
        Some(uid) => serde_json::from_str(&value.to_string().replace(uid, "<uid>")).unwrap(),
        None => value,
    };
    replace(&mut value);
    value
}

fn replace(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match name.as_str() {
                    "uid" | "resourceVersion" | "creationTimestamp" | "deletionTimestamp" | "time"
                    | "selfLink"
                        if value.is_string() =>
                    {
                        *value = format!("<{name}>").into();
                    }
                    "clusterIP" | "clusterIPs" => *value = format!("<{name}>").into(),
                    "message" => {
                        let text = value.as_str().unwrap_or_default();
                        if let Some((said, _)) = text.split_once(" UID in record (") {
                            *value = format!("{said} UID in record (…").into();
                        }
                    }
                    "managedFields" => {
                        replace(value);
                        let entries = value.as_array_mut().unwrap();
                        entries.sort_by_key(|entry| {
                            (
                                entry["manager"].to_string(),
                                entry["operation"].to_string(),
                                entry["subresource"].to_string(),
                            )
                        });
                    }
                    _ => replace(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(replace),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Where two values differ. `path` leaves out indices.
fn differences(path: &str, real: &Value, memory: &Value, found: &mut Vec<String>) {
    if NOT_IN_MEMORY.contains(&path) {
        return;
    }
    match (real, memory) {
        (Value::Object(real), Value::Object(memory)) => {
            let names: std::collections::BTreeSet<&String> = real.keys().chain(memory.keys()).collect();
            for name in names {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let of =
                    |fields: &serde_json::Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
                differences(&below, &of(real), &of(memory), found);
            }
        }
        (Value::Array(real), Value::Array(memory)) if real.len() == memory.len() => {
            real.iter().zip(memory).for_each(|(real, memory)| differences(path, real, memory, found));
        }
        _ if real == memory => {}
        _ => found.push(format!("{path}: a real server answers {real}, the one in memory {memory}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_in_memory_answers_as_a_real_one_did() {
    let stage = Stage::start().await;
    for crd in wharf_spec::crd::crds() {
        stage.seed(crd).await;
    }
    stage.seed(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}})).await;
    let client = stage.client();
    let mut answers = Vec::new();
    for asked in all() {
        let answer = ask(&client, &asked).await;
        answers.push(json!({
            "what": asked.what, "method": asked.method, "path": asked.path, "answer": answer,
        }));
    }
    if stage.is_real() {
        // What was recorded is still what it answers.
        expect_test::expect_file![FILE].assert_eq(&(serde_json::to_string_pretty(&answers).unwrap() + "\n"));
    }
    let recorded: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap();
    assert_eq!(recorded.len(), answers.len(), "the requests have changed: record them anew");
    let mut wrong = Vec::new();
    for (recorded, answer) in recorded.iter().zip(&answers) {
        assert_eq!(
            (&recorded["what"], &recorded["path"]),
            (&answer["what"], &answer["path"]),
            "record them anew"
        );
        let mut found = Vec::new();
        let (real, memory) = (&recorded["answer"], &answer["answer"]);
        differences("status code", &real["status"], &memory["status"], &mut found);
        differences("", &real["body"], &memory["body"], &mut found);
        wrong.extend(found.into_iter().map(|difference| format!("{}: {difference}", answer["what"])));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
