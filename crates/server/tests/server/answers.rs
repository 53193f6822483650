//! Complete answers: their shapes, sampling, stopping, echo, choices, log-probabilities.

use expect_test::expect;
use serde_json::{Value, json};

use super::support::*;

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn content(answer: &Value) -> String {
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

fn text(answer: &Value) -> String {
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_chat_answer_has_openais_shape() {
    let server = start().await;
    let mut answer = server.ok(CHAT, chat(json!({"model": "tiny", "ignore_eos": true}))).await;
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    answer["id"] = json!("ID");
    answer["created"] = json!(0);
    answer["choices"][0]["message"]["content"] = json!("TEXT");
    expect![[r#"
        {
          "id": "ID",
          "object": "chat.completion",
          "created": 0,
          "model": "tiny",
          "choices": [
            {
              "index": 0,
              "message": {
                "role": "assistant",
                "content": "TEXT"
              },
              "logprobs": null,
              "finish_reason": "length"
            }
          ],
          "usage": {
            "prompt_tokens": 25,
            "total_tokens": 37,
            "completion_tokens": 12,
            "prompt_tokens_details": {
              "cached_tokens": 0
            }
          }
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&answer).unwrap());
}

#[tokio::test]
async fn equal_requests_get_equal_answers_and_seeds_matter() {
    let server = start().await;
    let greedy = content(&server.ok(CHAT, chat(json!({}))).await);
    assert_eq!(greedy, content(&server.ok(CHAT, chat(json!({}))).await));
    let sampled = |seed: u64| {
        let body = chat(json!({"temperature": 1.5, "seed": seed, "max_tokens": 24, "ignore_eos": true}));
        let server = &server;
        async move { content(&server.ok(CHAT, body).await) }
    };
    assert_eq!(sampled(7).await, sampled(7).await);
    assert_ne!(sampled(7).await, sampled(8).await);
}

#[tokio::test]
async fn a_text_stops_before_its_stop_string() {
    let server = start().await;
    let whole = text(&server.ok(TEXT, completion(json!({"max_tokens": 40, "ignore_eos": true}))).await);
    let chars: Vec<char> = whole.chars().collect();
    let stop: String = chars[chars.len() / 2..chars.len() / 2 + 3].iter().collect();
    let before = &whole[..whole.find(&stop).unwrap()];
    let with = |more: Value| {
        let mut body =
            completion(json!({"max_tokens": 40, "ignore_eos": true, "stop": ["never seen", stop]}));
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let stopped = server.ok(TEXT, with(json!({}))).await;
    assert_eq!((text(&stopped).as_str(), &stopped["choices"][0]["finish_reason"]), (before, &json!("stop")));
    assert!(stopped["usage"]["completion_tokens"].as_u64().unwrap() < 40);
    let included = server.ok(TEXT, with(json!({"include_stop_str_in_output": true}))).await;
    assert_eq!(text(&included), format!("{before}{stop}"));
    let late = server.ok(TEXT, with(json!({"min_tokens": 40}))).await;
    // With min_tokens the model's end token cannot come either, so the text is its own.
    let unstopped =
        server.ok(TEXT, completion(json!({"max_tokens": 40, "ignore_eos": true, "min_tokens": 40}))).await;
    assert_eq!((text(&late), &late["choices"][0]["finish_reason"]), (text(&unstopped), &json!("length")));
    let streamed = server.events(TEXT, with(json!({"stream": true}))).await;
    let joined: String = streamed[..streamed.len() - 1]
        .iter()
        .map(|event| text(&serde_json::from_str(event).unwrap()))
        .collect();
    assert_eq!(joined, before);
    until(|| async { server.engine.snapshot().running == 0 }).await;
}

#[tokio::test]
async fn a_stop_token_ends_the_answer_and_stays_out_of_it() {
    let server = start().await;
    let body = completion(json!({"max_tokens": 40, "ignore_eos": true, "logprobs": 0}));
    let whole = server.ok(TEXT, body).await;
    let tokens = server.ok("/tokenize", json!({"prompt": "e"})).await["tokens"].clone();
    let forced = json!({"logit_bias": {tokens[0].to_string(): 100}, "stop_token_ids": tokens});
    let stopped = server.ok(TEXT, completion(forced)).await;
    assert_eq!(text(&stopped), "");
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(stopped["usage"]["completion_tokens"], 1);
    assert_eq!(whole["usage"]["completion_tokens"], 40);
}

#[tokio::test]
async fn n_choices_and_several_prompts_are_all_answered_in_order() {
    let server = start().await;
    let body = json!({"prompt": ["in", "the other"], "n": 3, "max_tokens": 6, "temperature": 1.2, "seed": 1,
                      "ignore_eos": true});
    let answer = server.ok(TEXT, body).await;
    let choices = answer["choices"].as_array().unwrap();
    let indices: Vec<u64> = choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 1, 2, 3, 4, 5]);
    assert_eq!(answer["usage"]["completion_tokens"], 36);
    let count = |prompt: &'static str| {
        let server = &server;
        async move { server.ok("/tokenize", json!({"prompt": prompt})).await["count"].as_u64().unwrap() }
    };
    let prompt_tokens = count("in").await + count("the other").await;
    assert_eq!(answer["usage"]["prompt_tokens"], prompt_tokens);
    // The second choice of a prompt is what its seed alone would give.
    let alone =
        json!({"prompt": "the other", "max_tokens": 6, "temperature": 1.2, "seed": 2, "ignore_eos": true});
    assert_eq!(choices[4]["text"], server.ok(TEXT, alone).await["choices"][0]["text"]);
}

#[tokio::test]
async fn a_prompt_may_be_text_or_tokens_and_can_be_echoed() {
    let server = start().await;
    let tokens = server.ok("/tokenize", json!({"prompt": "in the end"})).await["tokens"].clone();
    let by_text = server.ok(TEXT, completion(json!({"echo": true}))).await;
    let by_tokens = server.ok(TEXT, completion(json!({"prompt": tokens, "echo": true}))).await;
    assert_eq!(text(&by_text), text(&by_tokens));
    assert!(text(&by_text).starts_with("in the end"));
    let back = server.ok("/detokenize", json!({"tokens": tokens})).await;
    assert_eq!(back["prompt"], "in the end");
}

#[tokio::test]
async fn log_probabilities_have_both_apis_shapes() {
    let server = start().await;
    let answer =
        server.ok(CHAT, chat(json!({"logprobs": true, "top_logprobs": 3, "ignore_eos": true}))).await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 12);
    for token in content {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy: the chosen token is the most likely one.
        assert_eq!(top[0]["token"], token["token"]);
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
        assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
        assert!(token["bytes"].is_array());
    }
    let answer = server.ok(TEXT, completion(json!({"logprobs": 2, "ignore_eos": true}))).await;
    let logprobs = &answer["choices"][0]["logprobs"];
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[list].as_array().unwrap().len(), 12, "{list}");
    }
    assert_eq!(logprobs["text_offset"][0], 0);
    let plain = server.ok(TEXT, completion(json!({}))).await;
    assert_eq!(plain["choices"][0]["logprobs"], Value::Null);
}

#[tokio::test]
async fn a_second_request_finds_its_prefix_cached_unless_salted() {
    let server = start().await;
    let prompt = "the one in the other ".repeat(10);
    let cached = |salt: Option<&'static str>| {
        let (server, prompt) = (&server, prompt.clone());
        async move {
            let answer = server.ok(TEXT, completion(json!({"prompt": prompt, "cache_salt": salt}))).await;
            answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
        }
    };
    assert_eq!(cached(None).await, 0);
    assert!(cached(None).await >= 16);
    assert_eq!(cached(Some("tenant")).await, 0);
}

#[tokio::test]
async fn the_last_message_can_be_continued() {
    let server = start().await;
    let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "in the"}]);
    let count = |more: Value| {
        let mut body = json!({"messages": messages});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let server = &server;
        async move { server.ok("/tokenize", body).await }
    };
    let open = count(json!({"continue_final_message": true})).await;
    let text = server.ok("/detokenize", json!({"tokens": open["tokens"]})).await;
    assert!(text["prompt"].as_str().unwrap().ends_with("assistant\nin the"), "{text}");
    let closed = count(json!({"add_generation_prompt": false})).await;
    assert!(closed["count"].as_u64() > open["count"].as_u64());
}

#[tokio::test]
async fn the_model_is_listed_and_others_are_not_found() {
    let server = start().await;
    let list: Value = server.get("/v1/models").await.json().await.unwrap();
    assert_eq!((&list["data"][0]["id"], &list["data"][0]["max_model_len"]), (&json!("tiny"), &json!(512)));
    assert_eq!(server.get("/v1/models/tiny").await.status(), 200);
    assert_eq!(server.get("/v1/models/org/other").await.status(), 404);
    let (status, error) = server.ask(CHAT, chat(json!({"model": "gpt-9"}))).await;
    assert_eq!((status, &error["error"]["code"]), (404, &json!("model_not_found")));
    for path in ["/tokenize", "/detokenize"] {
        let body = json!({"model": "gpt-9", "prompt": "a", "tokens": [1]});
        assert_eq!(server.ask(path, body).await.0, 404, "{path}");
    }
}
