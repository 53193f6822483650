//! Streamed answers: their events, usage, errors within the stream, clients that go away.

use std::sync::Arc;

use expect_test::expect;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::support::*;

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// Events with what differs from run to run replaced.
fn normalised(events: &[String]) -> String {
    let one = |event: &String| match serde_json::from_str::<Value>(event) {
        Ok(mut chunk) => {
            for (key, word) in [("id", json!("ID")), ("created", json!(0))] {
                if chunk.get(key).is_some() {
                    chunk[key] = word;
                }
            }
            chunk.to_string()
        }
        Err(_) => event.clone(),
    };
    events.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// Forces the same token again and again, so that the text does not depend on the model's arithmetic.
async fn forced(server: &Running, more: Value) -> Value {
    let token = server.ok("/tokenize", json!({"prompt": "the"})).await["tokens"][0].clone();
    let mut more = more;
    more["logit_bias"] = json!({token.to_string(): 100});
    more["max_tokens"] = json!(3);
    more
}

#[tokio::test]
async fn a_chat_stream_is_what_clients_expect() {
    let server = start().await;
    let more = forced(&server, json!({"stream": true, "stream_options": {"include_usage": true}})).await;
    let events = server.events(CHAT, chat(more)).await;
    expect![[r#"
        {"id":"ID","object":"chat.completion.chunk","created":0,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}
        {"id":"ID","object":"chat.completion.chunk","created":0,"model":"tiny","choices":[{"index":0,"delta":{"content":"the"},"logprobs":null,"finish_reason":null}]}
        {"id":"ID","object":"chat.completion.chunk","created":0,"model":"tiny","choices":[{"index":0,"delta":{"content":"the"},"logprobs":null,"finish_reason":null}]}
        {"id":"ID","object":"chat.completion.chunk","created":0,"model":"tiny","choices":[{"index":0,"delta":{"content":"the"},"logprobs":null,"finish_reason":null}]}
        {"id":"ID","object":"chat.completion.chunk","created":0,"model":"tiny","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]}
        {"id":"ID","object":"chat.completion.chunk","created":0,"model":"tiny","choices":[],"usage":{"prompt_tokens":25,"total_tokens":28,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":0}}}
        [DONE]"#]].assert_eq(&normalised(&events));
}

#[tokio::test]
async fn a_text_stream_is_what_clients_expect() {
    let server = start().await;
    let more = forced(&server, json!({"stream": true, "echo": true})).await;
    let events = server.events(TEXT, completion(more)).await;
    expect![[r#"
        {"id":"ID","object":"text_completion","created":0,"model":"tiny","choices":[{"index":0,"text":"in the endthe","logprobs":null,"finish_reason":null}]}
        {"id":"ID","object":"text_completion","created":0,"model":"tiny","choices":[{"index":0,"text":"the","logprobs":null,"finish_reason":null}]}
        {"id":"ID","object":"text_completion","created":0,"model":"tiny","choices":[{"index":0,"text":"the","logprobs":null,"finish_reason":null}]}
        {"id":"ID","object":"text_completion","created":0,"model":"tiny","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"length"}]}
        [DONE]"#]].assert_eq(&normalised(&events));
}

#[tokio::test]
async fn a_stream_says_the_same_as_a_whole_answer() {
    let server = start().await;
    for seed in 0..5 {
        let more = json!({"max_tokens": 60, "temperature": 1.3, "seed": seed, "n": 2, "ignore_eos": true});
        let whole = server.ok(CHAT, chat(more.clone())).await;
        let mut more = more;
        more["stream"] = json!(true);
        let events = server.events(CHAT, chat(more)).await;
        assert_eq!(events.last().unwrap(), "[DONE]");
        let mut texts = [String::new(), String::new()];
        for event in &events[..events.len() - 1] {
            let chunk: Value = serde_json::from_str(event).unwrap();
            let choice = &chunk["choices"][0];
            let index = choice["index"].as_u64().unwrap() as usize;
            texts[index].push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        }
        for (index, text) in texts.iter().enumerate() {
            assert_eq!(whole["choices"][index]["message"]["content"], *text);
        }
    }
}

#[tokio::test]
async fn usage_comes_with_every_chunk_when_asked_for() {
    let server = start().await;
    let options = json!({"stream": true, "ignore_eos": true,
                         "stream_options": {"include_usage": true, "continuous_usage_stats": true}});
    let events = server.events(TEXT, completion(options)).await;
    let counts: Vec<u64> = events[..events.len() - 1]
        .iter()
        .map(|event| {
            serde_json::from_str::<Value>(event).unwrap()["usage"]["completion_tokens"].as_u64().unwrap()
        })
        .collect();
    assert!(counts.is_sorted());
    assert_eq!(counts.last(), Some(&12));
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place_at_once() {
    let server = start().await;
    // The engine stands still, so only the abort can free the blocks.
    server.gate.close();
    let body = completion(json!({"stream": true, "max_tokens": 500, "ignore_eos": true}));
    let response = server.post(TEXT, &body).await;
    assert_eq!(response.status(), 200);
    drop(response);
    let load = || async {
        let load: Value = server.get("/load").await.json().await.unwrap();
        load["server_load"] == 0
    };
    until(load).await;
    server.gate.release();
    until(|| async { server.engine.snapshot().running + server.engine.snapshot().waiting == 0 }).await;
    let snapshot = server.engine.snapshot();
    assert_eq!(snapshot.kv_blocks_used, 0);
    assert!(snapshot.totals.generation_tokens < 400, "{snapshot:?}");
}

#[tokio::test]
async fn a_client_that_does_not_wait_for_a_whole_answer_frees_its_place() {
    let server = start().await;
    server.gate.close();
    let body = completion(json!({"max_tokens": 500, "ignore_eos": true})).to_string();
    let mut client = TcpStream::connect(server.at.http).await.unwrap();
    let head = format!("POST {TEXT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    until(|| async { server.engine.snapshot().running + server.engine.snapshot().waiting == 1 }).await;
    drop(client);
    let load = || async {
        let load: Value = server.get("/load").await.json().await.unwrap();
        load["server_load"] == 0
    };
    until(load).await;
    server.gate.release();
    until(|| async { server.engine.snapshot().running + server.engine.snapshot().waiting == 0 }).await;
    assert!(server.engine.snapshot().totals.generation_tokens < 400);
}

#[tokio::test]
async fn a_panicking_engine_ends_streams_with_an_error_and_health_fails() {
    let server = Arc::new(start().await);
    server.gate.close();
    let body = chat(json!({"stream": true, "max_tokens": 100, "ignore_eos": true}));
    let response = server.post(CHAT, &body).await;
    assert_eq!(response.status(), 200);
    server.gate.explode();
    let events = events_of(&response.text().await.unwrap());
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert!(last["error"]["message"].is_string(), "{events:?}");
    until(|| async { server.get("/health").await.status() == 503 }).await;
    assert_eq!(server.get("/ready").await.status(), 503);
    let (status, error) = server.ask(CHAT, chat(json!({}))).await;
    assert_eq!(status, 503, "{error}");
}
