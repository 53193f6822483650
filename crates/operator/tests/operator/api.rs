//! What an API server makes of our definitions: what it refuses, who owns which field, what `kubectl` shows.

use std::process::Command;

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::support::{SOON, World, installation, spec};

fn service(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": {"name": name, "namespace": "demo"}, "spec": spec,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_refuses_what_the_rules_forbid_and_says_why() {
    let world = World::without_operator().await;
    let of = |changes: Value| spec(changes);
    let cases = [
        ("a.b", of(json!({})), "lower-case"),
        ("one-blue", of(json!({})), "-blue"),
        ("neither", json!({"model": {"name": "x"}}), "give either source or ref"),
        ("both", json!({"model": {"source": "pvc://a/b", "ref": "c"}}), "give either source or ref"),
        ("route", of(json!({"expose": {"type": "HTTPRoute"}})), "needs the gateway that it belongs to"),
        ("ingress", of(json!({"expose": {"type": "Ingress"}})), "needs the host"),
        ("bounds", of(json!({"scaling": {"min": 3, "max": 2}})), "min must not exceed max"),
        (
            "steps",
            of(json!({"rollout": {"strategy": "Rolling", "steps": [{"weight": "10%", "duration": "1m"}]}})),
            "steps belong to the strategy Canary",
        ),
        ("nodes", of(json!({"parallelism": {"tensor": 3, "nodes": 2}})), "nodes must divide"),
        ("kind", of(json!({"replicas": "many"})), "replicas"),
    ];
    for (name, spec, expected) in cases {
        let refused = world.cluster.try_seed(&service(name, spec)).await;
        let message = refused.expect_err(name);
        assert!(message.contains(expected), "{name}: {message}");
    }
    world.cluster.try_seed(&service("right", of(json!({})))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_manifests_are_taken_and_their_pods_are_let_in() {
    let world = World::without_operator().await;
    for object in installation() {
        world.cluster.seed(object).await;
    }
    // The namespace takes only Pods of the strictest kind.
    for name in ["wharf-operator", "wharf-gateway"] {
        let running = |deployment: Option<&Value>| {
            deployment.is_some_and(|d| d["status"]["readyReplicas"] == d["spec"]["replicas"])
        };
        let name = format!("wharf-system/{name}");
        world.cluster.await_object("Deployment", &name, SOON, running).await.unwrap();
    }
    let namespace = world.cluster.get("Namespace", "wharf-system").unwrap();
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_others_stay_theirs() {
    let world = World::start().await;
    world.service("assistant", &spec(json!({}))).await;
    world.ready("assistant").await;
    // Somebody else adds to a child of ours, and asks for a class of load balancers.
    let services: Api<k8s_openapi::api::core::v1::Service> = Api::namespaced(world.cluster.client(), "demo");
    let theirs = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"annotations": {"example.com/team": "a"}, "labels": {"example.com/cost": "42"}},
    });
    let params = PatchParams::apply("somebody");
    services.patch("assistant", &params, &Patch::Apply(&theirs)).await.unwrap();
    // A change makes the operator write the child again.
    world.service("assistant", &spec(json!({"expose": {"type": "LoadBalancer"}}))).await;
    world.ready("assistant").await;
    let service = services.get("assistant").await.unwrap();
    assert_eq!(service.annotations()["example.com/team"], "a");
    assert_eq!(service.labels()["example.com/cost"], "42");

    // Of the user's object the operator owns the status alone.
    let object = world.cluster.get("LLMService", "demo/assistant").unwrap();
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let ours: Vec<&Value> = entries.iter().filter(|entry| entry["manager"] == "wharf").collect();
    assert!(!ours.is_empty(), "{entries:?}");
    for entry in ours {
        let fields: Vec<&String> = entry["fieldsV1"].as_object().unwrap().keys().collect();
        assert_eq!((entry["subresource"].as_str(), fields), (Some("status"), vec![&"f:status".to_owned()]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_gets_explains_scales_and_waits() {
    let world = World::start().await;
    if !world.cluster.is_real() {
        eprintln!("SKIPPED in memory: the definitions are not explained there");
        return;
    }
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        eprintln!("SKIPPED: there is no kubectl");
        return;
    }
    let file = std::env::temp_dir().join(format!("wharf-kubectl-{}", std::process::id()));
    std::fs::write(&file, world.cluster.kubeconfig()).unwrap();
    let kubectl = async |arguments: &str| {
        let mut command = tokio::process::Command::new("kubectl");
        command.env("KUBECONFIG", &file).args(["--namespace", "demo"]).args(arguments.split(' '));
        let output = command.output().await.unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "kubectl {arguments}: {text}");
        text
    };
    world.service("assistant", &spec(json!({}))).await;
    kubectl("wait --for=condition=Ready llm/assistant --timeout=60s").await;
    world.ready("assistant").await;
    let shown = kubectl("get llm").await;
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "READY", "MODEL", "REPLICAS", "URL", "PHASE", "REASON", "AGE"]);
    assert_eq!(lines[1][..3], ["assistant", "True", "fake-model"], "{shown}");
    let explained = kubectl("explain llmservice.spec.scaling.idleAfter").await;
    assert!(explained.contains("DESCRIPTION"), "{explained}");
    kubectl("scale llm/assistant --replicas=1").await;
    kubectl("wait --for=jsonpath={.status.phase}=Ready llm/assistant --timeout=60s").await;
    kubectl("annotate --overwrite llm/assistant wharf.dev/rollout=undo@1").await;
    kubectl("wait --for=jsonpath={.status.rollout.answer.sequence}=1 llm/assistant --timeout=60s").await;
    let events = kubectl("get events").await;
    assert!(events.contains("Promoted"), "{events}");
    kubectl("delete llm/assistant --timeout=60s").await;
    std::fs::remove_file(&file).unwrap();
}
