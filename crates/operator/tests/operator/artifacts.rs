//! What Jobs have made stays while somebody needs it, and is removed by a Job after that.

use std::time::Duration;

use serde_json::{Value, json};
use wharf_fakes::actors::{Fate, JobFate};
use wharf_fakes::cluster::{Call, Injected};
use wharf_fakes::stage::Stage;
use wharf_operator::steer;
use wharf_rollout::CommandKind;

use crate::support::{SOON, World, condition, is_current, of_operator, pod};

/// In Jobs that remove something, and before the texts that other Jobs have too.
const REMOVAL: &str = "\"--remove\"";

/// A user applies a Model; gives what is served of it once it is made.
async fn made(world: &World, name: &str, spec: &Value) -> String {
    world.model(name, spec).await;
    let is_ready = |model: &Value| model["status"]["phase"] == "Ready" && is_current(model);
    let model = world.until("Model", name, is_ready).await;
    model["status"]["path"].as_str().unwrap().to_owned()
}

fn quantized(scheme: &str, keep: &str) -> Value {
    json!({"source": "hf://owner/repo", "optimize": {"quantize": scheme}, "keepUnusedFor": keep})
}

fn shared(source: &str) -> Value {
    json!({"source": source, "cache": {"claimName": "shared"}, "keepUnusedFor": "0s"})
}

fn service(keep_old_for: &str) -> Value {
    json!({"model": {"ref": "small", "name": "fake-model"}, "rollout": {"keepOldFor": keep_old_for}})
}

async fn served_by(world: &World, colour: &str) {
    let serves = |service: &Value| {
        let settled = condition(service, "Progressing")["status"] == "False";
        settled && is_current(service) && service["status"]["colour"] == colour
    };
    world.until("LLMService", "assistant", serves).await;
}

/// What a status says of an artifact; null where it lists none of this name.
fn artifact(model: &Value, name: &str) -> Value {
    let all = model["status"]["artifacts"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|artifact| artifact["name"] == name).unwrap_or_default()
}

/// Names of the Jobs that remove an artifact.
fn removals(cluster: &Stage, artifact: &str) -> Vec<String> {
    let jobs = cluster.list("Job");
    let own = jobs.iter().filter(|job| job["metadata"]["labels"]["wharf.dev/removes"] == artifact);
    own.map(|job| job["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

async fn until_removed(world: &World, model: &str, name: &str) -> Value {
    world.until("Model", model, |model| artifact(model, name).is_null()).await
}

async fn until_told(world: &World, reason: &str, text: &str) {
    let is_told = || world.events(reason).iter().any(|note| note.contains(text));
    assert!(world.cluster.until(SOON, |_| is_told()).await, "{:?}", world.events(reason));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_recipe_makes_a_second_artifact_and_the_first_is_removed_when_nothing_uses_it() {
    let world = World::start().await;
    let first = made(&world, "small", &quantized("q8_0", "60s")).await;
    world.service("assistant", &service("30s")).await;
    world.ready("assistant").await;
    let second = made(&world, "small", &quantized("q4_0", "60s")).await;
    assert_ne!(first, second);
    assert!(world.cluster.until(SOON, |cluster| !removals(cluster, &first).is_empty()).await);
    assert!(world.cluster.get("Deployment", "demo/assistant-blue").is_none(), "it served until then");
    served_by(&world, "green").await;
    let model = until_removed(&world, "small", &first).await;
    assert_eq!(artifact(&model, &second)["usedBy"], json!(["LLMService assistant", "Model small"]));
    until_told(&world, "ArtifactRemoved", &first).await;
    // What another recipe would be made from is not fetched again.
    let listed = model["status"]["artifacts"].as_array().unwrap();
    assert!(listed.iter().any(|artifact| artifact["name"].as_str().unwrap().starts_with("source-")));
    // Who goes back to the recipe before has it made again.
    let quantize =
        |call: &&Call| call.verb == "patch" && call.plural == "jobs" && call.name.contains("quantize");
    world.cluster.forget_calls();
    assert_eq!(made(&world, "small", &quantized("q8_0", "60s")).await, first);
    assert_eq!(of_operator(&world.cluster.calls()).filter(quantize).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kept_version_was_made_from_stays_and_it_takes_over_again() {
    let world = World::start().await;
    let first = made(&world, "small", &quantized("q8_0", "0s")).await;
    world.service("assistant", &service("1h")).await;
    world.ready("assistant").await;
    made(&world, "small", &quantized("q4_0", "0s")).await;
    served_by(&world, "green").await;
    let is_kept = |model: &Value| artifact(model, &first)["usedBy"] == json!(["LLMService assistant"]);
    world.until("Model", "small", is_kept).await;
    assert!(world.cluster.settle(Duration::from_millis(500), SOON).await);
    assert_eq!(removals(&world.cluster, &first), [] as [String; 0]);
    steer::order(&world.cluster.client(), "demo", "assistant", CommandKind::Undo, SOON).await.unwrap();
    served_by(&world, "blue").await;
    assert!(world.cluster.settle(Duration::from_millis(500), SOON).await);
    assert_eq!(removals(&world.cluster, &first), [] as [String; 0]);
    assert!(is_kept(&world.cluster.get("Model", "demo/small").unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_model_or_service_needs_in_the_same_volume_stays() {
    let world = World::start().await;
    let (old, new) = ("hf://owner/repo", "hf://owner/other");
    let own = |source: &str| {
        json!({
            "model": {"source": source, "name": "fake-model", "cache": {"claimName": "shared"}}, "rollout": {"keepOldFor": "30s"},
        })
    };
    let first = made(&world, "one", &shared(old)).await;
    assert_eq!(made(&world, "two", &shared(old)).await, first);
    world.service("assistant", &own(old)).await;
    world.ready("assistant").await;
    let users = async |expected: Value| {
        world.until("Model", "one", |model| artifact(model, &first)["usedBy"] == expected).await;
        assert!(world.cluster.settle(Duration::from_millis(500), SOON).await);
        assert_eq!(removals(&world.cluster, &first), [] as [String; 0]);
    };
    made(&world, "one", &shared(new)).await;
    users(json!(["LLMService assistant", "Model two"])).await;
    made(&world, "two", &shared(new)).await;
    users(json!(["LLMService assistant"])).await;
    world.service("assistant", &own(new)).await;
    served_by(&world, "green").await;
    for model in ["one", "two"] {
        until_removed(&world, model, &first).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_fails_is_tried_again_later_and_told_of() {
    let world = World::start().await;
    world.fates.jobs_with(REMOVAL, JobFate::fails());
    let first = made(&world, "small", &quantized("q8_0", "0s")).await;
    made(&world, "small", &quantized("q4_0", "0s")).await;
    let twice = |model: &Value| artifact(model, &first)["removal"]["failed"] == 2;
    let model = world.until("Model", "small", twice).await;
    let told = condition(&model, "Collected");
    assert_eq!((&told["status"], &told["reason"]), (&json!("False"), &json!("RemovalFailed")));
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("failed 2 times") && message.contains("backoff limit"), "{message}");
    assert_eq!(condition(&model, "Ready")["status"], "True", "the model is none the worse");
    until_told(&world, "RemovalFailed", "failed once").await;
    assert!(removals(&world.cluster, &first).len() >= 2, "each try is a Job of its own");
    world.fates.jobs_with(REMOVAL, JobFate::completes());
    let model = until_removed(&world, "small", &first).await;
    assert!(condition(&model, "Collected").is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_killed_while_it_removes_goes_on() {
    let world = World::start().await;
    world.fates.jobs_with(REMOVAL, JobFate::Completes { after: Duration::from_millis(200) });
    let first = made(&world, "small", &quantized("q8_0", "30s")).await;
    world.model("small", &quantized("q4_0", "30s")).await;
    // Killed at everything that the status says of it.
    let said = |model: &Value| artifact(model, &first).to_string();
    let mut last = said(&world.cluster.get("Model", "demo/small").unwrap());
    while last != "null" {
        last = said(&world.until("Model", "small", |model| said(model) != last).await);
        world.kill_operator().await;
        world.start_operator();
    }
    assert!(world.cluster.settle(Duration::from_millis(500), SOON).await);
    assert_eq!(removals(&world.cluster, &first).len(), 1);
}

/// Where in the calls something was done last to a Job whose name has this in it.
fn last_call(world: &World, verb: &str, name: &str) -> Option<usize> {
    let calls = world.cluster.calls();
    of_operator(&calls)
        .collect::<Vec<_>>()
        .iter()
        .rposition(|call| call.verb == verb && call.plural == "jobs" && call.name.contains(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_is_not_said_to_be_there_by_an_old_job() {
    let world = World::start().await;
    let Some(cluster) = world.cluster.in_memory("fail on demand") else { return };
    let first = made(&world, "small", &quantized("q8_0", "0s")).await;
    let maker = |cluster: &Stage| {
        let jobs =
            cluster.list("Job").into_iter().map(|job| job["metadata"]["name"].as_str().unwrap().to_owned());
        jobs.filter(|name| name.contains("-quantize-")).collect::<Vec<_>>()
    };
    let [old] = &maker(&world.cluster)[..] else { panic!("one Job has made it") };
    // It stays for now.
    cluster.fail_next(10_000, "delete", "Job", Injected::Status(500));
    made(&world, "small", &quantized("q4_0", "0s")).await;
    assert!(maker(&world.cluster).contains(old));
    cluster.heal();
    assert!(world.cluster.until(SOON, |cluster| !removals(cluster, &first).is_empty()).await);
    assert!(!maker(&world.cluster).contains(old), "it goes before what it has made");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_needed_again_while_it_is_removed_is_made_after_that() {
    let world = World::start().await;
    world.fates.jobs_with(REMOVAL, JobFate::Runs);
    let first = made(&world, "small", &quantized("q8_0", "0s")).await;
    made(&world, "small", &quantized("q4_0", "0s")).await;
    assert!(world.cluster.until(SOON, |cluster| !removals(cluster, &first).is_empty()).await);
    world.cluster.forget_calls();
    assert_eq!(made(&world, "small", &quantized("q8_0", "1h")).await, first);
    let (stopped, begun) =
        (last_call(&world, "delete", "-remove-"), last_call(&world, "patch", "-quantize-"));
    assert!(stopped.is_some() && stopped < begun, "{stopped:?} {begun:?}");
    let model = world.cluster.get("Model", "demo/small").unwrap();
    assert!(artifact(&model, &first)["removal"].is_null(), "{model}");
    assert_eq!(removals(&world.cluster, &first), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_waits_while_another_removes_what_it_wants() {
    let world = World::start().await;
    let Some(cluster) = world.cluster.in_memory("fail on demand") else { return };
    world.fates.jobs_with(REMOVAL, JobFate::Runs);
    let first = made(&world, "one", &shared("hf://owner/repo")).await;
    made(&world, "one", &shared("hf://owner/other")).await;
    assert!(world.cluster.until(SOON, |cluster| !removals(cluster, &first).is_empty()).await);
    // It takes a while until the removal is stopped.
    cluster.fail_next(3, "delete", "Job", Injected::Status(500));
    assert_eq!(made(&world, "two", &shared("hf://owner/repo")).await, first);
    let (stopped, begun) =
        (last_call(&world, "delete", "one-remove-"), last_call(&world, "patch", "two-fetch-"));
    assert!(stopped.is_some() && stopped < begun, "{stopped:?} {begun:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_waits_for_the_last_pod_of_a_removal() {
    let world = World::start().await;
    let name = made(&world, "one", &shared("hf://owner/repo")).await;
    world.fates.pods_with("gone-remove-1", Fate::Waits);
    let labels = json!({"app.kubernetes.io/managed-by": "wharf", "wharf.dev/model": "gone", "wharf.dev/removes": name});
    let mut remover = pod("demo", "gone-remove-1", &labels, json!({"name": "remove", "image": "wharf"}));
    remover["status"] = json!({"phase": "Running"});
    world.cluster.seed(remover).await;
    world.model("two", &shared("hf://owner/repo")).await;
    let waits = |model: &Value| {
        condition(model, "Ready")["message"].as_str().is_some_and(|m| m.contains("the pod gone-remove-1"))
    };
    world.until("Model", "two", waits).await;
    assert_eq!(last_call(&world, "patch", "two-fetch-"), None);
    world.fates.pods_with("gone-remove-1", Fate::Ended { exit_code: 0 });
    world.nudge();
    world.until("Model", "two", |model| model["status"]["phase"] == "Ready").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pods_that_are_leaving_were_made_from_stays() {
    let world = World::start().await;
    // They go on terminating when their Deployment is gone.
    let first = made(&world, "small", &quantized("q8_0", "0s")).await;
    world.service("assistant", &service("0s")).await;
    world.ready("assistant").await;
    world.fates.pods_with("\"wharf.dev/colour\":\"blue\"", Fate::Waits);
    world.nudge();
    made(&world, "small", &quantized("q4_0", "0s")).await;
    served_by(&world, "green").await;
    world
        .cluster
        .await_object("Deployment", "demo/assistant-blue", SOON, |found| found.is_none())
        .await
        .unwrap();
    assert!(world.cluster.settle(Duration::from_millis(500), SOON).await);
    let model = world.cluster.get("Model", "demo/small").unwrap();
    assert_eq!(artifact(&model, &first)["usedBy"], json!(["LLMService assistant"]));
    assert_eq!(removals(&world.cluster, &first), [] as [String; 0]);
    world.fates.pods_with("\"wharf.dev/colour\":\"blue\"", Fate::Ended { exit_code: 0 });
    world.nudge();
    until_removed(&world, "small", &first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_moves_to_another_volume_is_made_there() {
    let world = World::start().await;
    let first = made(&world, "small", &quantized("q8_0", "1h")).await;
    let mut moved = quantized("q8_0", "1h");
    moved["cache"] = json!({"claimName": "elsewhere"});
    world.cluster.forget_calls();
    assert_eq!(made(&world, "small", &moved).await, first);
    assert!(last_call(&world, "patch", "-quantize-").is_some(), "it is made, and not only said to be there");
    let model = world.cluster.get("Model", "demo/small").unwrap();
    let own = model["status"]["artifacts"].as_array().unwrap().iter().filter(|one| one["name"] == *first);
    let users: Vec<(&str, &Value)> =
        own.map(|one| (one["claim"].as_str().unwrap(), &one["usedBy"])).collect();
    assert_eq!(users, [("elsewhere", &json!(["Model small"])), ("small-model", &Value::Null)]);
}
