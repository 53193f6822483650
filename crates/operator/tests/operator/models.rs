//! Models are made by Jobs, one after the other, and services wait for them.

use serde_json::{Value, json};
use wharf_fakes::actors::JobFate;
use wharf_fakes::stage::Stage;

use crate::support::{SOON, World, condition, pod};

fn quantized() -> Value {
    json!({"source": "hf://owner/repo", "optimize": {"quantize": "q8_0", "gate": {"maxPerplexityIncrease": "2%"}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_fetched_then_quantised_then_served() {
    let world = World::start().await;
    world.fates.jobs_with("\"quantize\"", JobFate::Waits);
    world.service("assistant", &json!({"model": {"ref": "small", "name": "fake-model"}})).await;
    let waits = |service: &Value| {
        condition(service, "Progressing")["message"].as_str().is_some_and(|m| m.contains("no Model small"))
    };
    world.until("LLMService", "assistant", waits).await;
    world.model("small", &quantized()).await;
    let quantizing = |model: &Value| model["status"]["phase"] == "Quantizing";
    world.until("Model", "small", quantizing).await;
    let says = |service: &Value| {
        condition(service, "Progressing")["message"]
            .as_str()
            .is_some_and(|m| m.contains("`wharf quantize` runs"))
    };
    world.until("LLMService", "assistant", says).await;
    assert!(world.cluster.list("Deployment").is_empty(), "nothing is started before the model is there");
    world.fates.jobs_with("\"quantize\"", JobFate::completes());
    world.nudge();
    let model = world.until("Model", "small", |model| model["status"]["phase"] == "Ready").await;
    let path = model["status"]["path"].as_str().unwrap().to_owned();
    assert!(path.starts_with("artifact-"), "{path}");
    world.ready("assistant").await;
    let pod = &world.cluster.list("Deployment")[0]["spec"]["template"]["spec"];
    assert_eq!(pod["volumes"][0]["persistentVolumeClaim"]["claimName"], "small-model");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_its_gate_says_by_how_much_and_so_does_its_service() {
    let world = World::start().await;
    world.fates.jobs_with("\"quantize\"", JobFate::Runs);
    world.model("small", &quantized()).await;
    world.service("assistant", &json!({"model": {"ref": "small", "name": "fake-model"}})).await;
    let model = world.until("Model", "small", |model| model["status"]["phase"] == "Quantizing").await;
    let quantize = |cluster: &Stage| {
        let names =
            cluster.list("Job").into_iter().map(|job| job["metadata"]["name"].as_str().unwrap().to_owned());
        names.into_iter().find(|name| name.contains("quantize"))
    };
    assert!(world.cluster.until(SOON, |cluster| quantize(cluster).is_some()).await);
    let name = &*quantize(&world.cluster).unwrap();
    world.fates.pods_with(name, wharf_fakes::actors::Fate::Waits);
    let labels = json!({
        "app.kubernetes.io/managed-by": "wharf", "wharf.dev/model": "small", "wharf.dev/part": "prepare", "batch.kubernetes.io/job-name": name,
    });
    let mut maker = pod("demo", "small-quantize-1", &labels, json!({"name": "quantize", "image": "wharf"}));
    let said = json!({"exitCode": 1, "message": "perplexity rises by 3.1%, more than the gate's 2%\n"});
    maker["status"] = json!({"phase": "Failed", "containerStatuses": [{
        "name": "quantize", "image": "wharf", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": said},
    }]});
    world.cluster.seed(maker).await;
    world.fates.jobs_with("\"quantize\"", JobFate::fails());
    world.nudge();
    let failed = |model: &Value| model["status"]["phase"] == "Failed";
    let model_after = world.until("Model", "small", failed).await;
    assert_eq!(model["metadata"]["generation"], model_after["metadata"]["generation"]);
    let ready = condition(&model_after, "Ready");
    assert_eq!(ready["reason"], "QuantizeFailed");
    assert!(ready["message"].as_str().unwrap().contains("3.1%, more than the gate's 2%"), "{ready}");
    let says = |service: &Value| {
        condition(service, "Ready")["message"]
            .as_str()
            .is_some_and(|m| m.contains("3.1%, more than the gate's 2%"))
    };
    world
        .until("LLMService", "assistant", |service| says(service) && service["status"]["phase"] == "Failed")
        .await;
    assert!(world.events("QuantizeFailed").iter().any(|note| note.contains("3.1%")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_a_source_of_its_own_has_its_own_jobs() {
    let world = World::start().await;
    world.fates.jobs_with("\"fetch\"", JobFate::Waits);
    world.service("assistant", &json!({"model": {"source": "hf://owner/repo", "name": "fake-model"}})).await;
    let says = |service: &Value| {
        condition(service, "Ready")["message"].as_str().is_some_and(|m| m.contains("`wharf fetch` runs"))
    };
    let service = world.until("LLMService", "assistant", says).await;
    assert_eq!(service["status"]["phase"], "Preparing");
    world.fates.jobs_with("\"fetch\"", JobFate::completes());
    world.nudge();
    world.ready("assistant").await;
}
