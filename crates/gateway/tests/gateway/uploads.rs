//! Large bodies pass while they arrive: as fast as the endpoint reads, and whole or not at all.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use wharf_access::Limits;
use wharf_api::demand::ServiceDemand;
use wharf_fakes::engine::{FakeEngine, Fault, Target};

use crate::support::{Running, chat, engines, service, until};
use crate::upload_support::{Client, Endpoint, KEPT, blamed, model_first, passing};

fn demand(gateway: &Running) -> ServiceDemand {
    gateway.handle.demand().services["demo/fake-model"].clone()
}

#[tokio::test]
async fn a_large_body_is_at_the_endpoint_before_it_has_ended() {
    let endpoint = Endpoint::reading().await;
    let gateway = Running::start(passing(&endpoint.address));
    let body = model_first(8 * KEPT, "");
    let (some, rest) = body.split_at(4 * KEPT);
    let mut client = Client::chat(&gateway, body.len()).await;
    client.send(some).await;
    until("what is there arrives", || endpoint.seen.bytes() == some.len()).await;
    assert_eq!(demand(&gateway).in_flight, 1);
    client.send(rest).await;
    assert_eq!(client.answer().await.0, 200);
    assert_eq!(endpoint.seen.last(), body.as_bytes());
    gateway.idle().await;
    assert_eq!((demand(&gateway).answered, demand(&gateway).prompt_tokens), (1, 7));
}

#[tokio::test]
async fn a_small_body_and_one_without_its_model_wait_until_they_are_whole() {
    let endpoint = Endpoint::reading().await;
    let gateway = Running::start(passing(&endpoint.address));
    let prompt = "x".repeat(8 * KEPT);
    let last = format!(r#"{{"messages":[{{"role":"user","content":"{prompt}"}}],"model":"fake-model"}}"#);
    for body in [model_first(KEPT / 2, ""), last] {
        let before = endpoint.seen.bytes();
        let (some, rest) = body.split_at(body.len() - 20);
        let mut client = Client::chat(&gateway, body.len()).await;
        client.send(some).await;
        // Somebody else's whole request shows that the gateway is not just slow.
        assert_eq!(gateway.ask(&chat("hello")).await.0, 200);
        let others = endpoint.seen.last().len();
        assert_eq!(endpoint.seen.bytes(), before + others);
        client.send(rest).await;
        assert_eq!(client.answer().await.0, 200);
        assert_eq!(endpoint.seen.last(), body.as_bytes());
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_read_holds_its_client_back() {
    const BODY: usize = 48 << 20;
    /// What a connection's kernel buffers hold at most, on both sides of the gateway, is a third of it.
    const HELD: usize = 24 << 20;
    let endpoint = Endpoint::idle().await;
    let mut config = passing(&endpoint.address);
    config.max_body_bytes = 64 << 20;
    let gateway = Running::start(config);
    let body = model_first(BODY, "");
    let mut client = Client::chat(&gateway, body.len()).await;
    let mut taken = 0;
    while let Ok(written) =
        timeout(Duration::from_secs(1), client.sends.write(&body.as_bytes()[taken..])).await
    {
        taken += written.unwrap();
    }
    assert!((KEPT..HELD).contains(&taken), "{taken} bytes were taken and nobody read them");
    assert_eq!(
        gateway.ask(&json!({"model": "nobody's", "messages": []})).await.0,
        404,
        "others are answered"
    );
    endpoint.read();
    client.send(&body.as_bytes()[taken..]).await;
    assert_eq!(client.answer().await.0, 200);
    assert_eq!(endpoint.seen.last().len(), body.len());
    gateway.idle().await;
}

#[tokio::test]
async fn an_endpoint_that_takes_nothing_is_given_up() {
    let endpoint = Endpoint::idle().await;
    let mut config = passing(&endpoint.address);
    config.timeouts.idle = 0.3;
    let gateway = Running::start(config);
    let body = model_first(24 << 20, "");
    let client = Client::chat(&gateway, body.len()).await;
    let (status, error) = client.send_and_read(body).await;
    assert!(status == 504 && error.contains("gateway_timeout"), "{status} {error}");
    gateway.idle().await;
    assert_eq!((demand(&gateway).failed, blamed(&gateway)), (1, 1));
}

#[tokio::test]
async fn a_client_that_leaves_while_it_sends_leaves_nothing_behind() {
    let endpoint = Endpoint::reading().await;
    let gateway = Running::start(passing(&endpoint.address));
    let body = model_first(8 * KEPT, "");
    let mut client = Client::chat(&gateway, body.len()).await;
    client.send(&body[..4 * KEPT]).await;
    until("what is there arrives", || endpoint.seen.bytes() == 4 * KEPT).await;
    drop(client);
    until("the endpoint's request is broken off", || endpoint.seen.broken() == 1).await;
    gateway.idle().await;
    until("it is counted", || demand(&gateway).abandoned == 1).await;
    assert_eq!((demand(&gateway).arrived, demand(&gateway).failed, endpoint.seen.whole()), (1, 0, 0));
    assert_eq!(blamed(&gateway), 0);
}

#[tokio::test]
async fn a_client_that_stops_sending_has_its_time_and_no_more() {
    let endpoint = Endpoint::reading().await;
    let mut config = passing(&endpoint.address);
    config.timeouts.body = 0.3;
    let gateway = Running::start(config);
    let body = model_first(8 * KEPT, "");
    let mut client = Client::chat(&gateway, body.len()).await;
    client.send(&body[..4 * KEPT]).await;
    assert_eq!(client.answer().await.0, 408);
    until("the endpoint's request is broken off", || endpoint.seen.broken() == 1).await;
    gateway.idle().await;
}

/// A model server that answers 413 when it has read a request's head, and then closes the connection or does nothing more.
async fn refusing(closes: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(refuse(stream, closes));
        }
    });
    address
}

async fn refuse(mut stream: TcpStream, closes: bool) {
    let mut received = Vec::new();
    while !received.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut received).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let answer = match received.starts_with(b"GET") {
        true => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        false => "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 7\r\n\r\ntoo big",
    };
    stream.write_all(answer.as_bytes()).await.unwrap();
    if !closes {
        std::future::pending::<()>().await;
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_has_ended_is_passed_on() {
    for closes in [true, false] {
        let gateway = Running::start(passing(&refusing(closes).await));
        let body = model_first(24 << 20, "");
        for _ in 0..5 {
            let client = Client::chat(&gateway, body.len()).await;
            assert_eq!(client.send_and_read(&body).await, (413, "too big".to_owned()), "{closes}");
            gateway.idle().await;
        }
        // Many clients read nothing before all is sent.
        let mut client = Client::chat(&gateway, body.len()).await;
        client.send(&body).await;
        assert_eq!(client.answer().await, (413, "too big".to_owned()), "{closes}");
    }
}

#[tokio::test]
async fn what_turns_out_to_be_no_request_never_gets_to_an_endpoint_whole() {
    let endpoint = Endpoint::reading().await;
    let mut config = passing(&endpoint.address);
    config.max_body_bytes = 16 * KEPT;
    let gateway = Running::start(config);
    let twice = model_first(8 * KEPT, r#","model":"other""#);
    let mut cut_off = model_first(8 * KEPT, "");
    cut_off.pop();
    let large = model_first(17 * KEPT, "");
    let chunked = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let length = |body: &str| format!("content-length: {}", body.len());
    let cases = [
        (length(&twice), twice, 400, "model is given twice"),
        (length(&cut_off), cut_off, 400, "the body ends before its JSON object does"),
        ("transfer-encoding: chunked".to_owned(), chunked, 413, "larger than the limit"),
    ];
    for (number, (length, body, status, message)) in cases.into_iter().enumerate() {
        let headers = ["content-type: application/json".to_owned(), length];
        let client = Client::begin(&gateway, "/v1/chat/completions", &headers).await;
        let (answered, error) = client.send_and_read(body).await;
        assert!(answered == status && error.contains(message), "{answered} {error}");
        until("the endpoint's request is broken off", || endpoint.seen.broken() == number + 1).await;
        gateway.idle().await;
    }
    assert_eq!((endpoint.seen.whole(), demand(&gateway).failed, blamed(&gateway)), (0, 0, 0));
}

/// How often two servers that have no room are asked, and what the client is told.
async fn asked(body: &str) -> (u16, usize) {
    let engines = engines(2).await;
    engines.iter().for_each(|engine| engine.fail(Target::Generation, Fault::status(503)));
    let mut config = passing("");
    config.services = vec![service(&engines)];
    let gateway = Running::start(config);
    let request = gateway.client.post(gateway.url("/v1/chat/completions")).body(body.to_owned());
    let status = request.send().await.unwrap().status().as_u16();
    (status, engines.iter().map(|engine| engine.stats().received).sum())
}

#[tokio::test]
async fn a_request_is_tried_again_only_while_all_of_it_is_kept() {
    let prompt = "x".repeat(4 * KEPT);
    let last = format!(r#"{{"messages":[{{"role":"user","content":"{prompt}"}}],"model":"fake-model"}}"#);
    assert_eq!(asked(&model_first(KEPT / 2, "")).await, (503, 2));
    assert_eq!(asked(&last).await, (503, 2));
    assert_eq!(asked(&model_first(4 * KEPT, "")).await, (503, 1));
}

#[tokio::test]
async fn a_server_that_refuses_connections_has_taken_nothing_and_is_asked_again() {
    let engines = engines(1).await;
    let mut config = passing("");
    config.services = vec![service(&engines)];
    config.polling.health = 1000.0;
    let gateway = Running::start(config);
    engines[0].kill().await;
    let back = async {
        until("the request waits", || demand(&gateway).queued > 0).await;
        engines[0].heal().await.unwrap();
    };
    let body = model_first(8 * KEPT, "");
    let request = gateway.client.post(gateway.url("/v1/chat/completions")).body(body.clone());
    let (response, ()) = futures_util::future::join(request.send(), back).await;
    assert_eq!(response.unwrap().status(), 200);
    assert_eq!(engines[0].generation_requests().last().unwrap().body, body);
    gateway.idle().await;
}

#[tokio::test]
async fn usage_is_asked_of_a_stream_that_says_so_at_its_end() {
    let engines = engines(1).await;
    let mut config = passing("");
    config.services = vec![service(&engines)];
    let gateway = Running::start(config);
    let ask = async |last: &str| {
        let body = model_first(4 * KEPT, last);
        let request = gateway.client.post(gateway.url("/v1/chat/completions")).body(body.clone());
        let text = request.send().await.unwrap().text().await.unwrap();
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        gateway.idle().await;
        (serde_json::from_str::<Value>(&body).unwrap(), received(&engines[0]), text)
    };
    let (mut sent, received, text) = ask(r#","stream":true"#).await;
    sent["stream_options"] = json!({"include_usage": true});
    assert_eq!(received, sent);
    assert!(!text.contains("\"prompt_tokens\""), "{text}");
    let (prompt, generated) = (demand(&gateway).prompt_tokens, demand(&gateway).generated_tokens);
    assert!(
        prompt < 10 && generated == 8,
        "the engine's figures, not those by the size: {prompt} {generated}"
    );

    let (sent, received, text) = ask(r#","stream":true,"stream_options":{"include_usage":true}"#).await;
    assert_eq!(received, sent);
    assert!(text.contains("\"prompt_tokens\""), "{text}");
}

#[tokio::test]
async fn a_prompt_of_unknown_length_counts_as_what_has_come_of_it() {
    let engines = engines(1).await;
    engines[0].configure(|config| {
        config.itl = Duration::from_millis(50);
        config.tokens = 2000;
    });
    let mut config = passing("");
    config.services = vec![service(&engines)];
    let gateway = Running::start(config);
    let body = model_first(4 * KEPT, r#","stream":true"#);
    let headers = ["content-type: application/json", "transfer-encoding: chunked"].map(str::to_owned);
    let mut client = Client::begin(&gateway, "/v1/chat/completions", &headers).await;
    client.send(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())).await;
    until("the gateway passes tokens on", || demand(&gateway).first_token.iter().sum::<u64>() == 1).await;
    // Before the engine has said what it took.
    drop(client);
    until("it is counted", || demand(&gateway).abandoned == 1).await;
    assert!((KEPT..KEPT + 64).contains(&(demand(&gateway).prompt_tokens as usize)), "four bytes a token");
}

fn received(engine: &FakeEngine) -> Value {
    engine.generation_requests().last().unwrap().json()
}

#[tokio::test]
async fn tokens_are_reserved_for_what_is_still_to_come() {
    let endpoint = Endpoint::reading().await;
    let mut config = passing(&endpoint.address);
    // Four bytes a token: enough for what is kept, and not for the whole.
    config.services[0].limits = Limits { tokens_per_minute: Some(KEPT as u64), ..Limits::default() };
    let gateway = Running::start(config);
    let body = model_first(8 * KEPT, "");
    let client = Client::chat(&gateway, body.len()).await;
    assert_eq!(client.send_and_read(body).await.0, 429);
    assert_eq!(endpoint.seen.bytes(), 0);
    // Five are within the limit if what was used counts, and not if what was reserved does.
    for _ in 0..5 {
        let body = model_first(2 * KEPT, "");
        assert_eq!(Client::chat(&gateway, body.len()).await.send_and_read(body).await.0, 200);
        gateway.idle().await;
    }
}

#[tokio::test]
async fn a_form_passes_byte_for_byte() {
    let endpoint = Endpoint::reading().await;
    let gateway = Running::start(passing(&endpoint.address));
    let field =
        |head: &str, text: &str| format!("--XX\r\ncontent-disposition: form-data; {head}\r\n\r\n{text}\r\n");
    let audio = "\r\n--X\"{".repeat(KEPT);
    let form = [
        field("name=\"model\"", "fake-model"),
        field("name=\"file\"; filename=\"model.wav\"", &audio),
        "--XX--\r\n".to_owned(),
    ]
    .concat();
    let headers = [
        "content-type: multipart/form-data; boundary=XX".to_owned(),
        format!("content-length: {}", form.len()),
    ];
    let (some, rest) = form.split_at(2 * KEPT);
    let mut client = Client::begin(&gateway, "/v1/audio/transcriptions", &headers).await;
    client.send(some).await;
    until("what is there arrives", || endpoint.seen.bytes() == some.len()).await;
    client.send(rest).await;
    assert_eq!(client.answer().await.0, 200);
    assert_eq!(endpoint.seen.last(), form.as_bytes());
}

#[tokio::test]
async fn bodies_over_http2_pass_too() {
    let endpoint = Endpoint::reading().await;
    let gateway = Running::start(passing(&endpoint.address));
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let body = model_first(16 * KEPT, "");
    let request = client.post(gateway.url("/v1/chat/completions")).body(body.clone());
    let response = request.send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_2));
    assert_eq!(endpoint.seen.last(), body.as_bytes());
    gateway.idle().await;
}
