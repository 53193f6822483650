//! Health, readiness, metrics and request ids.

use std::time::{Duration, Instant};

use serde_json::json;
use wharf_engine::{EngineConfig, Speculation};

use super::support::*;

#[tokio::test]
async fn metrics_have_vllms_names_on_both_ports() {
    let server = start().await;
    server.ok("/v1/completions", completion(json!({"ignore_eos": true}))).await;
    let at_api = server.get("/metrics").await.text().await.unwrap();
    let url = format!("http://{}/metrics", server.at.metrics);
    let response = server.client.get(url).send().await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
    let at_metrics = response.text().await.unwrap();
    for line in [
        "vllm:num_requests_running{model_name=\"tiny\"} 0",
        "vllm:num_requests_waiting{model_name=\"tiny\"} 0",
        "vllm:kv_cache_usage_perc{model_name=\"tiny\"} 0",
        "vllm:generation_tokens_total{model_name=\"tiny\"} 12",
        "vllm:request_success_total{finished_reason=\"length\",model_name=\"tiny\"} 1",
        "vllm:time_to_first_token_seconds_count{model_name=\"tiny\"} 1",
        "vllm:inter_token_latency_seconds_count{model_name=\"tiny\"} 11",
        "vllm:iteration_tokens_total_count{model_name=\"tiny\"} 12",
        "vllm:cache_config_info{block_size=\"16\",model_name=\"tiny\",num_gpu_blocks=\"512\"} 1",
        "wharf_http_requests_total{endpoint=\"/v1/completions\",status=\"200\"} 1",
        "wharf_http_requests_in_flight 0",
    ] {
        assert!(at_metrics.contains(line), "{line} in\n{at_metrics}");
        assert!(at_api.contains(line.split('{').next().unwrap()));
    }
}

#[tokio::test]
async fn guessed_tokens_are_counted_under_vllms_names() {
    let speculation = Speculation::UpTo(4);
    let server = start_with(config(), EngineConfig { speculation, ..engine_config() }).await;
    // The same token again and again: every guess is right, and the first is possible after three tokens.
    let body = json!({"ignore_eos": true, "logit_bias": {"7": 100}, "max_tokens": 13});
    server.ok("/v1/completions", completion(body)).await;
    let metrics = server.get("/metrics").await.text().await.unwrap();
    for line in [
        "vllm:generation_tokens_total{model_name=\"tiny\"} 13",
        "vllm:spec_decode_num_drafts_total{model_name=\"tiny\"} 2",
        "vllm:spec_decode_num_draft_tokens_total{model_name=\"tiny\"} 8",
        "vllm:spec_decode_num_accepted_tokens_total{model_name=\"tiny\"} 8",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}

#[tokio::test]
async fn request_ids_are_echoed_or_made() {
    let server = start().await;
    let request = server.client.get(server.url("/version")).header("x-request-id", "mine-1");
    assert_eq!(request.send().await.unwrap().headers()["x-request-id"], "mine-1");
    let made = server.get("/version").await.headers()["x-request-id"].clone();
    assert_eq!(made.len(), 32);
}

#[tokio::test]
async fn a_stuck_engine_fails_health_until_it_moves_again() {
    let mut config = config();
    config.stall_seconds = 0.2;
    let server = start_with(config, engine_config()).await;
    server.gate.close();
    let body = completion(json!({}));
    let asked = tokio::spawn(server.client.post(server.url("/v1/completions")).json(&body).send());
    until(|| async { server.get("/health").await.status() == 503 }).await;
    let reason = server.get("/health").await.text().await.unwrap();
    assert!(reason.contains("no progress"), "{reason}");
    server.gate.release();
    until(|| async { server.get("/health").await.status() == 200 }).await;
    assert_eq!(asked.await.unwrap().unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_answer_while_long_texts_are_tokenised() {
    let server = start().await;
    let text = "the other end of ten anthems ".repeat(200_000);
    let tokenise = (0..8).map(|_| {
        let request = server.client.post(server.url("/tokenize")).json(&json!({"prompt": text}));
        tokio::spawn(request.send())
    });
    let running: Vec<_> = tokenise.collect();
    let mut slowest = Duration::ZERO;
    while running.iter().any(|task| !task.is_finished()) {
        let start = Instant::now();
        let url = format!("http://{}/health", server.at.metrics);
        assert_eq!(server.client.get(url).send().await.unwrap().status(), 200);
        slowest = slowest.max(start.elapsed());
    }
    for task in running {
        assert_eq!(task.await.unwrap().unwrap().status(), 200);
    }
    // The promise is 100 ms with a core to spare for the probe itself; this machine may be shared by other tests.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}
