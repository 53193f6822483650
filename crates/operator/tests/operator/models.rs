//! Models are made by Jobs, one after the other, and services wait for them.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wharf_fakes::actors::{JobFate, PORT_ANNOTATION};
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
    let said = json!({"exitCode": 1, "message": "/cache/small.gguf is not good enough and was not kept: perplexity rises by 3.10 %, more than 2.00 %\n"});
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
    assert_eq!(ready["reason"], "GateFailed");
    assert!(ready["message"].as_str().unwrap().contains("3.10 %, more than 2.00 %"), "{ready}");
    let says = |service: &Value| {
        condition(service, "Ready")["message"]
            .as_str()
            .is_some_and(|m| m.contains("3.10 %, more than 2.00 %"))
    };
    world
        .until("LLMService", "assistant", |service| says(service) && service["status"]["phase"] == "Failed")
        .await;
    // Events are written after the status, and metrics count what the operator's own watch has shown it.
    let is_told = || world.events("GateFailed").iter().any(|note| note.contains("3.10 %"));
    assert!(world.cluster.until(SOON, |_| is_told()).await);
    for line in [
        "gate_refused{kind=\"Model\",name=\"demo/small\"} 1",
        "model_state{model=\"demo/small\",state=\"Failed\"} 1",
    ] {
        world.until_metrics(&format!("\nwharf_operator_{line}\n")).await;
    }
}

/// A command that says how far it is.
async fn command(said: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /progress "));
            let answer = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{said}",
                said.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_says_how_far_its_job_is_and_what_came_of_it() {
    let world = World::start().await;
    world.fates.jobs_with("\"fetch\"", JobFate::Runs);
    world.model("small", &json!({"source": "hf://owner/repo"})).await;
    let fetch = |cluster: &Stage| cluster.list("Job").first().map(|job| job["metadata"]["name"].clone());
    assert!(world.cluster.until(SOON, |cluster| fetch(cluster).is_some()).await);
    let job = fetch(&world.cluster).unwrap();
    world.fates.pods_with("small-fetch-1", wharf_fakes::actors::Fate::Waits);
    let labels = json!({
        "app.kubernetes.io/managed-by": "wharf", "wharf.dev/model": "small", "wharf.dev/part": "fetch", "batch.kubernetes.io/job-name": job,
    });
    let port = command(r#"{"what":"fetching","percent":42.0,"message":"1 of 2 GB, 80.0 MB/s"}"#).await.port();
    let mut maker = pod("demo", "small-fetch-1", &labels, json!({"name": "fetch", "image": "wharf"}));
    maker["metadata"]["annotations"][PORT_ANNOTATION] = port.to_string().into();
    maker["status"] = json!({"phase": "Running"});
    world.cluster.seed(maker.clone()).await;
    let says = |model: &Value| model["status"]["percent"] == 42.0;
    let model = world.until("Model", "small", says).await;
    let message = condition(&model, "Ready")["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with(": fetching, 42%, 1 of 2 GB, 80.0 MB/s"), "{message}");

    let ended = json!({"exitCode": 0, "message": r#"{"bytes":2000000000,"after":{"perplexity":7.5}}"#});
    maker["status"] = json!({"phase": "Succeeded", "containerStatuses": [{
        "name": "fetch", "image": "wharf", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": ended},
    }]});
    world.cluster.seed(maker).await;
    world.fates.jobs_with("\"fetch\"", JobFate::completes());
    world.nudge();
    let model = world.until("Model", "small", |model| model["status"]["phase"] == "Ready").await;
    let status = &model["status"];
    assert_eq!((&status["bytes"], &status["after"]["perplexity"]), (&json!(2_000_000_000_u64), &json!(7.5)));
    assert!(status["percent"].is_null());
    // What it said outlives its pod.
    world.cluster.delete("Pod", "demo/small-fetch-1");
    world.fates.pods_with("small-fetch-1", wharf_fakes::actors::Fate::Ended { exit_code: 0 });
    world.nudge();
    assert!(world.cluster.until(SOON, |cluster| cluster.get("Pod", "demo/small-fetch-1").is_none()).await);
    assert!(world.cluster.settle(Duration::from_millis(300), SOON).await);
    assert_eq!(world.cluster.get("Model", "demo/small").unwrap()["status"], *status);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_service_says_how_far_its_own_job_is() {
    let world = World::start().await;
    world.fates.jobs_with("\"fetch\"", JobFate::Runs);
    world.service("assistant", &json!({"model": {"source": "hf://owner/repo", "name": "fake-model"}})).await;
    let fetch = |cluster: &Stage| cluster.list("Job").first().map(|job| job["metadata"]["name"].clone());
    assert!(world.cluster.until(SOON, |cluster| fetch(cluster).is_some()).await);
    let labels = json!({
        "app.kubernetes.io/managed-by": "wharf", "wharf.dev/service": "assistant", "wharf.dev/part": "fetch",
        "batch.kubernetes.io/job-name": fetch(&world.cluster).unwrap(),
    });
    world.fates.pods_with("assistant-fetch-1", wharf_fakes::actors::Fate::Waits);
    let port = command(r#"{"what":"fetching","percent":42.0,"message":"1 of 2 GB, 80.0 MB/s"}"#).await.port();
    let mut maker = pod("demo", "assistant-fetch-1", &labels, json!({"name": "fetch", "image": "wharf"}));
    maker["metadata"]["annotations"][PORT_ANNOTATION] = port.to_string().into();
    maker["status"] = json!({"phase": "Running"});
    world.cluster.seed(maker).await;
    let says = |service: &Value| {
        condition(service, "Ready")["message"].as_str().is_some_and(|m| m.contains(": fetching, 42%"))
    };
    world.until("LLMService", "assistant", says).await;
}
