//! What somebody edits or deletes by hand of what the operator made is put right, and what they add beside it is theirs.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::support::{SOON, World, condition, spec, writes};

/// A person changes a Deployment, as `kubectl edit` does.
async fn edit(world: &World, name: &str, patch: &Value) {
    let deployments: Api<Deployment> = Api::namespaced(world.cluster.client(), "demo");
    deployments.patch(name, &by_kubectl(), &Patch::Strategic(patch)).await.unwrap();
}

fn by_kubectl() -> PatchParams {
    PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() }
}

/// A change of the container of a Deployment's pods.
fn of_server(mut change: Value) -> Value {
    change["name"] = "server".into();
    json!({"spec": {"template": {"spec": {"containers": [change]}}}})
}

/// The spec of a Deployment; where something came back it may stand elsewhere in a list of variables.
fn spec_of(deployment: &Value) -> Value {
    let mut spec = deployment["spec"].clone();
    if let Some(env) = spec["template"]["spec"]["containers"][0]["env"].as_array_mut() {
        env.sort_by_key(|variable| variable["name"].to_string());
    }
    spec
}

/// Its amounts are written as a server does not.
fn marked() -> Value {
    spec(json!({
        "runtime": {"env": [{"name": "MARK", "value": "one"}, {"name": "NONE", "value": ""}]},
        "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}},
    }))
}

fn serves(service: &Value) -> bool {
    service["status"]["readyReplicas"] == 1 && condition(service, "Ready")["status"] == "True"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_somebody_edits_is_put_right_and_they_are_told_where_to_change_it() {
    let world = World::start().await;
    world.service("assistant", &marked()).await;
    world.ready("assistant").await;
    let before = spec_of(&world.cluster.get("Deployment", "demo/assistant-blue").unwrap());
    let edits = [
        of_server(json!({"image": "nobody/knows:latest"})),
        json!({"spec": {"replicas": 3}}),
        of_server(json!({"args": ["serve", "--nonsense"]})),
        of_server(json!({"env": [{"name": "MARK", "value": "two"}]})),
        of_server(json!({"env": [{"name": "MARK", "$patch": "delete"}]})),
        json!({"spec": {"replicas": 0, "template": {"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}}}}),
        json!({"metadata": {"labels": {"wharf.dev/colour": null}}}),
    ];
    for patch in edits {
        edit(&world, "assistant-blue", &patch).await;
        let as_before = |deployment: &Value| {
            spec_of(deployment) == before && deployment["metadata"]["labels"]["wharf.dev/colour"] == "blue"
        };
        world.until("Deployment", "assistant-blue", as_before).await;
    }
    let service = world.until("LLMService", "assistant", serves).await;
    assert_eq!(service["status"]["colour"], "blue", "an edit is no release");
    let is_told = || {
        world.events("EditUndone").iter().any(|note| {
            note.starts_with(
                "Deployment assistant-blue was edited (spec.template.spec.containers.server.image)",
            )
        })
    };
    assert!(world.cluster.until(SOON, |_| is_told()).await, "{:?}", world.events("EditUndone"));
    assert_eq!(world.events("EditUndone").len(), 1, "told once a minute");
    // What was put right is as it should be for a new operator too.
    assert!(world.cluster.settle(Duration::from_millis(300), SOON).await);
    world.kill_operator().await;
    world.cluster.forget_calls();
    world.start_operator();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(writes(&world.cluster.calls()), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_add_to_a_deployment_stays() {
    let world = World::start().await;
    world.service("assistant", &marked()).await;
    world.ready("assistant").await;
    let mut theirs = of_server(json!({"env": [{"name": "THEIRS", "value": "1"}]}));
    theirs["metadata"] = json!({"annotations": {"example.com/theirs": "1"}});
    // As `kubectl rollout restart` writes it.
    theirs["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = "now".into();
    edit(&world, "assistant-blue", &theirs).await;
    let pod_of_theirs = |pod: &Value| {
        pod["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] == "now"
            && pod["status"]["phase"] == "Running"
    };
    let restarted = || {
        let pods = world.cluster.list("Pod");
        pods.len() == 1 && pod_of_theirs(&pods[0])
    };
    assert!(world.cluster.until(SOON, |_| restarted()).await);
    world.until("LLMService", "assistant", serves).await;
    assert!(world.cluster.settle(Duration::from_millis(300), SOON).await);
    world.kill_operator().await;
    world.cluster.forget_calls();
    world.start_operator();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(writes(&world.cluster.calls()), [] as [String; 0]);
    let deployment = world.cluster.get("Deployment", "demo/assistant-blue").unwrap();
    let env = deployment["spec"]["template"]["spec"]["containers"][0]["env"].to_string();
    assert!(env.contains("THEIRS") && env.contains("MARK"), "{env}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_undone_to_the_letter_by_a_wharf_that_renders_something_else() {
    let world = World::start().await;
    world.service("assistant", &marked()).await;
    world.ready("assistant").await;
    let before = spec_of(&world.cluster.get("Deployment", "demo/assistant-blue").unwrap());
    world.kill_operator().await;
    world.install_image("example.com/wharf:next");
    world.start_operator();
    edit(&world, "assistant-blue", &of_server(json!({"env": [{"name": "MARK", "value": "two"}]}))).await;
    let is_told = || !world.events("EditUndone").is_empty();
    assert!(world.cluster.until(SOON, |_| is_told()).await);
    let after = world.until("Deployment", "assistant-blue", |deployment| spec_of(deployment) == before).await;
    let image = after["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap();
    assert_ne!(image, "example.com/wharf:next", "an upgrade moves no image");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_is_deleted_after_an_upgrade_comes_back_with_the_image_that_it_ran() {
    let world = World::start().await;
    world.service("assistant", &marked()).await;
    world.ready("assistant").await;
    let before = world.cluster.get("Deployment", "demo/assistant-blue").unwrap();
    world.kill_operator().await;
    world.install_image("example.com/wharf:next");
    world.start_operator();
    assert!(world.cluster.delete("Deployment", "demo/assistant-blue"));
    let anew = |object: &Value| object["metadata"]["uid"] != before["metadata"]["uid"];
    let after = world.until("Deployment", "assistant-blue", anew).await;
    let image = |deployment: &Value| deployment["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    assert_eq!(image(&after), image(&before));
    let service = world.until("LLMService", "assistant", serves).await;
    assert_eq!(service["status"]["image"], image(&before));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_somebody_who_edits_again_at_once_nobody_races() {
    let world = World::without_operator().await;
    let beat = Duration::from_secs(1);
    *world.beat.lock().unwrap() = beat;
    world.start_operator();
    world.service("assistant", &marked()).await;
    world.ready("assistant").await;
    let image = |deployment: &Value| deployment["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    let ours = image(&world.cluster.get("Deployment", "demo/assistant-blue").unwrap());
    let theirs = of_server(json!({"image": "nobody/knows:latest"}));
    edit(&world, "assistant-blue", &theirs).await;
    world.until("Deployment", "assistant-blue", |deployment| image(deployment) == ours).await;
    let undone = Instant::now();
    edit(&world, "assistant-blue", &theirs).await;
    world.until("Deployment", "assistant-blue", |deployment| image(deployment) == ours).await;
    assert!(undone.elapsed() > beat / 2, "undone after {:?}", undone.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn children_that_somebody_deletes_or_edits_come_back() {
    let world = World::start().await;
    world.service("assistant", &marked()).await;
    world.ready("assistant").await;
    let ours = |object: &&Value| object["metadata"]["labels"]["wharf.dev/service"] == "assistant";
    let config = world.cluster.list("ConfigMap").iter().find(ours).unwrap()["metadata"]["name"].clone();
    let of = |kind: &str, name: &str| world.cluster.get(kind, &format!("demo/{name}")).unwrap();
    for (kind, name) in [
        ("Service", "assistant"),
        ("Service", "assistant-pods"),
        ("ConfigMap", config.as_str().unwrap()),
        ("Deployment", "assistant-blue"),
        ("ServiceAccount", "assistant"),
        ("EndpointSlice", "assistant-gateway"),
    ] {
        let before = of(kind, name);
        assert!(world.cluster.delete(kind, &format!("demo/{name}")), "{kind} {name}");
        let anew = |object: &Value| {
            object["metadata"]["uid"] != before["metadata"]["uid"]
                && object["metadata"]["ownerReferences"] == before["metadata"]["ownerReferences"]
        };
        world.until(kind, name, anew).await;
    }
    world.until("LLMService", "assistant", serves).await;
    let services: Api<Service> = Api::namespaced(world.cluster.client(), "demo");
    let before = of("Service", "assistant")["spec"]["ports"].clone();
    let mut ports = before.clone();
    ports[0]["port"] = 81.into();
    // A second port of this name would stand against ours.
    let moved = Patch::Merge(json!({"spec": {"ports": ports}}));
    services.patch("assistant", &by_kubectl(), &moved).await.unwrap();
    world.until("Service", "assistant", |now| now["spec"]["ports"] == before).await;
}
