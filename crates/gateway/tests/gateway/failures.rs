//! Model servers that fail in every way there is: nothing hangs, nothing is lost silently, nothing stays counted.

use std::time::Duration;

use wharf_fakes::engine::{Fault, Health, Target};

use crate::support::{Running, chat, config, engines, service, streamed, until};

/// What fails before the first byte goes to another endpoint, and the client does not notice.
async fn hidden(fault: Fault) {
    let engines = engines(2).await;
    engines[0].fail(Target::Generation, fault.clone());
    let gateway = Running::start(config(vec![service(&engines)]));
    for round in 0..4 {
        let (status, answer) = gateway.ask(&chat(&format!("{round}"))).await;
        assert_eq!((status, answer["system_fingerprint"].as_str()), (200, Some("e1")), "{fault:?}");
        let (status, text) = gateway.stream(&streamed(&format!("{round}"))).await;
        assert!(status == 200 && text.ends_with("data: [DONE]\n\n"), "{fault:?}: {status} {text}");
    }
    gateway.idle().await;
    assert_eq!(engines[1].stats().in_flight, 0);
}

#[tokio::test]
async fn a_connection_that_is_closed_before_the_answer_is_tried_elsewhere() {
    hidden(Fault::CloseBeforeHead).await;
}

#[tokio::test]
async fn a_connection_that_is_reset_before_the_answer_is_tried_elsewhere() {
    hidden(Fault::ResetBeforeHead).await;
}

#[tokio::test]
async fn a_server_that_has_no_room_or_is_broken_is_left_for_another() {
    for code in [429, 502, 503, 504] {
        hidden(Fault::status(code)).await;
    }
}

#[tokio::test]
async fn a_server_that_refuses_connections_is_left_for_another() {
    let engines = engines(2).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    engines[0].refuse().await;
    for round in 0..10 {
        assert_eq!(gateway.ask(&chat(&format!("{round}"))).await.0, 200);
    }
    gateway.idle().await;
}

#[tokio::test]
async fn an_answer_that_is_cut_is_asked_for_again_unless_the_client_has_seen_some_of_it() {
    let engines = engines(2).await;
    engines[0].fail(Target::Generation, Fault::TruncateAfter(3));
    let gateway = Running::start(config(vec![service(&engines)]));
    for round in 0..4 {
        let (status, answer) = gateway.ask(&chat(&format!("{round}"))).await;
        assert_eq!((status, answer["system_fingerprint"].as_str()), (200, Some("e1")));
    }
}

/// What fails after the first token ends the stream with an error event, not with silence.
async fn cut(fault: Fault) {
    let engines = engines(1).await;
    engines[0].fail(Target::Generation, fault.clone());
    let gateway = Running::start(config(vec![service(&engines)]));
    let (status, text) = gateway.stream(&streamed("hello")).await;
    assert_eq!(status, 200);
    let events: Vec<&str> = text.split("\n\n").collect();
    let [.., error, done, ""] = events[..] else { panic!("{fault:?}: {text}") };
    assert_eq!(done, "data: [DONE]");
    let error: serde_json::Value = serde_json::from_str(error.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "bad_gateway", "{fault:?}");
    assert!(events.len() >= 4, "the tokens before the failure arrived: {text}");
    gateway.idle().await;
    let demand = gateway.handle.demand().services["demo/fake-model"].clone();
    assert_eq!((demand.arrived, demand.failed, demand.answered), (1, 1, 0));
}

#[tokio::test]
async fn a_stream_that_is_reset_ends_with_an_error_event() {
    cut(Fault::ResetAfter(3)).await;
}

#[tokio::test]
async fn a_stream_that_is_closed_ends_with_an_error_event() {
    cut(Fault::TruncateAfter(3)).await;
}

#[tokio::test]
async fn a_stream_that_falls_silent_ends_with_an_error_event() {
    cut(Fault::StallAfter(3)).await;
}

#[tokio::test]
async fn a_stream_that_ends_without_its_last_event_ends_with_an_error_event() {
    cut(Fault::EndAfter(3)).await;
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_streams_cuts_them_and_the_rest_goes_on() {
    let engines = engines(2).await;
    for engine in &engines {
        engine.configure(|config| {
            config.itl = Duration::from_millis(40);
            config.tokens = 20;
        });
    }
    let gateway = Running::start(config(vec![service(&engines)]));
    let streams = (0..20).map(|n| {
        let gateway = &gateway;
        async move { gateway.stream(&streamed(&format!("{n}"))).await }
    });
    let kill = async {
        engines[0].until(|stats| stats.in_flight >= 5 && stats.generated_tokens >= 10).await;
        engines[0].kill().await;
    };
    let (answers, ()) = futures_util::future::join(futures_util::future::join_all(streams), kill).await;
    let whole = answers.iter().filter(|(_, text)| !text.contains("\"error\"")).count();
    assert!(answers.iter().all(|(status, text)| *status == 200 && text.ends_with("data: [DONE]\n\n")));
    assert!((5..20).contains(&whole), "{whole} of 20 were whole");
    gateway.idle().await;
    for round in 0..5 {
        let (status, text) = gateway.stream(&streamed(&format!("after {round}"))).await;
        assert!(status == 200 && !text.contains("\"error\""), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_a_504_and_does_not_hang() {
    let engines = engines(1).await;
    engines[0].fail(Target::Generation, Fault::StallBeforeHead);
    let gateway = Running::start(config(vec![service(&engines)]));
    let (status, error) = gateway.ask(&chat("hello")).await;
    assert_eq!((status, error["error"]["code"].as_str()), (504, Some("gateway_timeout")));
    gateway.idle().await;
}

#[tokio::test]
async fn a_slow_body_is_passed_on_as_it_comes() {
    let engines = engines(1).await;
    let trickle = Fault::Trickle { bytes: 7, pause: Duration::from_millis(1) };
    engines[0].fail(Target::Generation, trickle);
    let gateway = Running::start(config(vec![service(&engines)]));
    let (status, text) = gateway.stream(&streamed("hello")).await;
    assert!(status == 200 && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(gateway.ask(&chat("hello")).await.0, 200);
}

#[tokio::test]
async fn the_only_server_s_refusal_reaches_the_client_as_it_is() {
    let engines = engines(1).await;
    let gateway = Running::start(config(vec![service(&engines)]));
    engines[0].fail_next(1, Target::Generation, Fault::status(500));
    assert_eq!(gateway.ask(&chat("hello")).await.0, 500);
    engines[0].fail_next(1, Target::Generation, Fault::Status { code: 429, retry_after: Some(1) });
    let response = gateway.post(&chat("hello")).await;
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "1"));
}

#[tokio::test]
async fn a_server_that_flaps_loses_no_request_to_it() {
    let engines = engines(2).await;
    engines[0].configure(|config| config.health = Health::Flapping { good: 2, bad: 3 });
    let gateway = Running::start(config(vec![service(&engines)]));
    for round in 0..40 {
        assert_eq!(gateway.ask(&chat(&format!("{round}"))).await.0, 200);
    }
    gateway.idle().await;
}

#[tokio::test]
async fn an_unhealthy_server_gets_nothing_until_it_is_healthy_again() {
    let engines = engines(2).await;
    engines[0].configure(|config| config.health = Health::Bad);
    let gateway = Running::start(config(vec![service(&engines)]));
    let ready = || {
        let demand = gateway.handle.demand();
        demand.services["demo/fake-model"].endpoints.values().filter(|load| load.ready).count()
    };
    until("the bad server is noticed", || ready() == 1).await;
    for round in 0..6 {
        gateway.ask(&chat(&format!("{round}"))).await;
    }
    assert_eq!(engines[0].stats().received, 0);
    engines[0].configure(|config| config.health = Health::Good);
    until("the good server is noticed", || ready() == 2).await;
}

#[tokio::test]
async fn the_only_server_s_restart_costs_time_and_no_request() {
    let engines = engines(1).await;
    let mut config = config(vec![service(&engines)]);
    config.polling.health = 1000.0;
    let gateway = Running::start(config);
    assert_eq!(gateway.ask(&chat("before")).await.0, 200);
    engines[0].kill().await;
    let back = async {
        until("the request waits", || gateway.handle.demand().services["demo/fake-model"].queued > 0).await;
        engines[0].heal().await.unwrap();
    };
    let waiting = chat("during");
    let ((status, _), ()) = futures_util::future::join(gateway.ask(&waiting), back).await;
    assert_eq!(status, 200);
    gateway.idle().await;
}
