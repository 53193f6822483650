//! What is said in which order, and that nothing stays counted.

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpTrailers, ProcessingRequest, ProtocolConfiguration,
};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{POOL, Reply, Running, addresses, chat, config, engines, head_of, until};

#[tokio::test]
async fn a_body_goes_on_whole_in_pieces_that_envoy_takes() {
    let engines = engines(1).await;
    let epp = Running::start(config(&engines)).await;
    for length in [1, 61_000, 62_000, 124_000, 500_001] {
        let sent = chat(&"x".repeat(length));
        let (_, reply) = epp.ask(&sent).await;
        let Reply::Goes { body, pieces, .. } = reply else { panic!("refused: {reply:?}") };
        assert_eq!(body.len(), sent.len());
        assert!(body == sent.as_bytes() && pieces.iter().all(|length| *length <= 62_000), "{pieces:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_or_is_no_json_is_refused() {
    let engines = engines(1).await;
    let mut config = config(&engines);
    config.max_body_bytes = 1000;
    let epp = Running::start(config).await;
    assert_eq!(epp.ask(&chat(&"x".repeat(2000))).await.1.refusal().0, 413);
    let exchange = epp.ask("{\"model\"").await;
    let Reply::Refused(refusal) = exchange.1 else { panic!("not refused") };
    assert_eq!(refusal.status.unwrap().code, 400);
    assert_eq!(epp.in_flight(), 0);
}

#[tokio::test]
async fn a_request_without_a_body_is_picked_for_at_once() {
    let engines = engines(1).await;
    let epp = Running::start(config(&engines)).await;
    let mut exchange = epp.open().await;
    exchange.head(&[], Metadata::default(), true).await;
    assert_eq!(exchange.picked(false).await.endpoints(), addresses(&engines));
}

#[tokio::test]
async fn nothing_is_said_before_the_body_has_ended_and_trailers_end_it_too() {
    let engines = engines(1).await;
    let epp = Running::start(config(&engines)).await;
    let mut exchange = epp.open().await;
    exchange.head(&[], Metadata::default(), false).await;
    let body = chat("hello");
    exchange.say(Request::RequestBody(HttpBody { body: body.clone().into(), ..HttpBody::default() })).await;
    exchange.say(Request::RequestTrailers(HttpTrailers::default())).await;
    let head = exchange.hear().await.unwrap().unwrap().response;
    assert!(matches!(head, Some(Response::RequestHeaders(_))), "{head:?}");
    let piece = exchange.hear().await.unwrap().unwrap().response;
    assert!(matches!(piece, Some(Response::RequestBody(_))), "{piece:?}");
    let trailers = exchange.hear().await.unwrap().unwrap().response;
    assert!(matches!(trailers, Some(Response::RequestTrailers(_))), "{trailers:?}");
}

#[tokio::test]
async fn what_clients_send_of_the_gateway_s_own_headers_is_taken_away() {
    let engines = engines(1).await;
    let epp = Running::start(config(&engines)).await;
    let headers = [
        ("x-gateway-destination-endpoint", "10.0.0.1:80"),
        ("x-gateway-secret", "1"),
        ("x-gateway-model-name-rewrite", "other"),
        ("x-request-id", "abc"),
    ];
    let (_, reply) = epp.ask_with(&headers, Metadata::default(), chat("hello").as_bytes()).await;
    assert_eq!(reply.endpoints(), addresses(&engines));
    assert_eq!(reply.removed(), ["x-gateway-secret"]);
}

#[tokio::test]
async fn an_answer_passes_piece_by_piece_and_its_usage_is_counted() {
    let engines = engines(1).await;
    let epp = Running::start(config(&engines)).await;
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":30,\"completion_tokens\":12}}\n\n";
    let events = ["data: {\"choices\":[{}]}\n", "\n", usage, "data: [DONE]\n\n"];
    let (mut exchange, _) = epp.ask(&chat("hello")).await;
    exchange.answer_head(200, &[("content-type", "text/event-stream; charset=utf-8")], None).await;
    for event in events {
        exchange.answer_piece(event, false).await;
    }
    assert_eq!(epp.in_flight(), 1);
    exchange.answer_piece("", true).await;
    until("it ends", || epp.in_flight() == 0).await;
    let (mut exchange, _) = epp.ask(&chat("hello")).await;
    let whole = "{\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}";
    exchange.answer(200, None, &[&whole[..20], &whole[20..]]).await;
    until("it ends", || epp.in_flight() == 0).await;
    let demand = epp.handle.demand().services[POOL].clone();
    assert_eq!((demand.prompt_tokens, demand.generated_tokens, demand.answered), (33, 16, 2));
}

#[tokio::test]
async fn a_stream_that_dies_in_any_phase_leaves_nothing_in_flight() {
    let engines = engines(1).await;
    let epp = Running::start(config(&engines)).await;
    let asking = epp.open().await;
    asking.head(&[], Metadata::default(), false).await;
    let (picked, _) = epp.ask(&chat("a")).await;
    let (mut answering, _) = epp.ask(&chat("b")).await;
    answering.answer_head(200, &[("content-type", "text/event-stream")], None).await;
    answering.answer_piece("data: {\"choices\":[{}]}\n\n", false).await;
    assert_eq!(epp.in_flight(), 2);
    drop((asking, picked, answering));
    until("all is released", || epp.in_flight() == 0).await;
    let demand = epp.handle.demand().services[POOL].clone();
    assert_eq!((demand.arrived, demand.abandoned, demand.generated_tokens), (2, 2, 1));
    epp.stop().await;
}

#[tokio::test]
async fn a_filter_in_another_mode_is_told_so() {
    let engines = engines(1).await;
    let epp = Running::start(config(&engines)).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", epp.addresses.grpc)).unwrap();
    let mut client =
        envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient::new(
            channel.connect().await.unwrap(),
        );
    let buffered = ProtocolConfiguration { request_body_mode: 2, ..ProtocolConfiguration::default() };
    let message = ProcessingRequest {
        request: Some(Request::RequestHeaders(head_of(&[(":method", "POST")], false))),
        protocol_config: Some(buffered),
        ..ProcessingRequest::default()
    };
    sender.send(message).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut replies = client.process(stream).await.unwrap().into_inner();
    let refused = replies.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("FULL_DUPLEX_STREAMED"), "{refused}");
}

#[tokio::test]
async fn health_is_answered_by_every_name_on_both_ports() {
    let engines = engines(1).await;
    let epp = Running::start(config(&engines)).await;
    for address in [epp.addresses.grpc, epp.addresses.health] {
        let channel = tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap();
        let mut client = HealthClient::new(channel.connect().await.unwrap());
        for name in [
            "",
            "liveness",
            "readiness",
            "envoy.service.ext_proc.v3.ExternalProcessor",
            "inference-extension",
        ] {
            let request = HealthCheckRequest { service: name.to_owned() };
            assert_eq!(client.check(request).await.unwrap().into_inner().status, 1, "{name}");
        }
    }
}
