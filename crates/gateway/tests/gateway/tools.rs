//! Tools: the gateway understands none of them and changes nothing of them, neither of what is offered nor of what is called.

use std::time::Duration;

use wharf_fakes::engine::FakeEngine;

use crate::support::{Running, config, engines, service};

/// What a parser that writes JSON anew would write otherwise: blanks, escapes, numbers, the order of members, a member given twice.
const TOOLS: &str = r#"[ {"type":"function", "function":{"name":"get_weather","description":"Z\u00fcrich\/now \ud83d\udea2",
    "parameters":{"type":"object","required":[ "place" ],"properties":{"place":{"type":"string"},"days":{"type":"integer",
    "maximum":1e1,"default":3.0},"exact":{"type":"boolean"}},"x":1,"x":2}, "strict" : true}},
    {"function":{"name":"get_time","parameters":{"properties":{"zone":{"enum":["\u0043ET"]}}}},"type":"function"}]"#;

fn body(also: &str) -> String {
    format!(
        r#"{{"tools":{TOOLS} ,"tool_choice":"required", "messages":[{{"role":"user","content":"What now?"}}],
        "model":"fake-model"{also}}}"#
    )
}

const STREAMED: &str = r#","stream":true,"stream_options":{"include_usage":true}"#;

async fn post(client: &reqwest::Client, url: String, body: String) -> String {
    let request = client.post(url).header("content-type", "application/json").body(body);
    request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
}

/// The answer to a request through the gateway, and to the same request without it; numbers of requests are taken out.
async fn through_and_direct(gateway: &Running, engine: &FakeEngine, body: &str) -> [String; 2] {
    let path = "/v1/chat/completions";
    let through = post(&gateway.client, gateway.url(path), body.to_owned()).await;
    let direct = post(&gateway.client, format!("http://{}{path}", engine.address()), body.to_owned()).await;
    let requests = engine.generation_requests();
    let numbers = requests[requests.len() - 2..].iter().map(|request| request.number.to_string());
    let mut answers = [through, direct];
    for (answer, number) in answers.iter_mut().zip(numbers) {
        for prefix in ["chatcmpl-", "call_"] {
            *answer = answer.replace(&format!("{prefix}{number}"), prefix);
        }
    }
    answers
}

#[tokio::test]
async fn tools_reach_the_engine_byte_for_byte() {
    let engines = engines(1).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    for also in ["", STREAMED] {
        post(&gateway.client, gateway.url("/v1/chat/completions"), body(also)).await;
        assert_eq!(engines[0].generation_requests().last().unwrap().body, body(also));
    }
    // Here the gateway adds to the body that it wants to know the usage.
    post(&gateway.client, gateway.url("/v1/chat/completions"), body(r#","stream":true"#)).await;
    let received = engines[0].generation_requests().last().unwrap().body.clone();
    let received = std::str::from_utf8(&received).unwrap();
    assert!(received.contains("include_usage"), "{received}");
    assert!(received.ends_with(&body(r#","stream":true"#)[1..]), "{received}");
}

#[tokio::test]
async fn calls_come_back_as_the_engine_made_them() {
    let engines = engines(1).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    let [through, direct] = through_and_direct(&gateway, &engines[0], &body("")).await;
    assert!(through.contains(r#""finish_reason":"tool_calls""#), "{through}");
    assert_eq!(through, direct);
}

#[tokio::test]
async fn pieces_of_streamed_calls_come_back_unchanged_and_in_order() {
    let engines = engines(1).await;
    // One event a write, and all in one.
    for between in [Duration::from_millis(5), Duration::ZERO] {
        engines[0].configure(|config| config.itl = between);
        let gateway = Running::start(config(vec![service(&engines)]));
        let [through, direct] = through_and_direct(&gateway, &engines[0], &body(STREAMED)).await;
        assert!(through.matches(r#""function":{"arguments":""#).count() > 5, "{through}");
        assert_eq!(through, direct);
    }
}

#[tokio::test]
async fn without_usage_a_stream_of_calls_lacks_the_usage_and_nothing_else() {
    let engines = engines(1).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    let [through, direct] = through_and_direct(&gateway, &engines[0], &body(r#","stream":true"#)).await;
    assert_eq!(through, direct, "the engine gave it to the gateway alone");
    gateway.idle().await;
    let demand = gateway.handle.demand().services["demo/fake-model"].clone();
    assert!(demand.generated_tokens > 5, "{}", demand.generated_tokens);
}
