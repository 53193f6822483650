//! Spans at a collector on loopback: what it is sent, and what becomes of those who trace when it is away.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use wharf_otlp::{Export, Settings};
use wharf_telemetry::trace::{Ended, Part, Value};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A collector that answers with this status, and what it gets.
async fn collector(status: u16) -> (String, mpsc::UnboundedReceiver<(HeaderMap, ExportTraceServiceRequest)>) {
    let (sender, received) = mpsc::unbounded_channel();
    let take = move |headers: HeaderMap, body: Bytes| async move {
        sender.send((headers, ExportTraceServiceRequest::decode(body).unwrap())).unwrap();
        StatusCode::from_u16(status).unwrap()
    };
    let router = axum::Router::new().route("/v1/traces", axum::routing::post(take));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(socket, router).await });
    (format!("http://{address}"), received)
}

fn export(endpoint: &str) -> Export {
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret"),
        ("OTEL_RESOURCE_ATTRIBUTES", "k8s.namespace.name=demo"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "8"),
    ];
    let env = variables
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect::<BTreeMap<_, _>>();
    Export::start(Settings::from_env(&env, "wharf-server").unwrap().unwrap()).unwrap()
}

async fn stop(export: Export) {
    tokio::task::spawn_blocking(|| export.stop()).await.unwrap();
}

#[tokio::test]
async fn a_collector_gets_a_request_and_its_parts_when_the_process_ends() {
    let (endpoint, mut received) = collector(200).await;
    let export = export(&endpoint);
    let trace = export.tracer().begin(Some(PARENT.as_bytes()));
    let attributes = vec![
        ("gen_ai.request.model", Value::from("tiny")),
        ("gen_ai.usage.input_tokens", Value::from(7_u64)),
        ("gen_ai.latency.time_to_first_token", Value::from(0.5)),
        ("gen_ai.response.finish_reasons", Value::Texts(vec!["stop".to_owned()])),
    ];
    let took = Duration::from_millis(3);
    let part = Part { name: "prefill", began: Instant::now(), took, attributes: Vec::new() };
    trace.end(
        Ended { name: "chat tiny".to_owned(), attributes, error: Some("it broke off".to_owned()) },
        [part],
    );
    stop(export).await;
    let (headers, request) = received.recv().await.unwrap();
    assert_eq!(
        (&headers["x-key"], &headers["content-type"]),
        (&"secret".parse().unwrap(), &"application/x-protobuf".parse().unwrap())
    );
    let [resource] = request.resource_spans.as_slice() else { panic!("{request:?}") };
    let of_resource = |name: &str| {
        let attributes = &resource.resource.as_ref().unwrap().attributes;
        attributes.iter().find(|one| one.key == name).and_then(|one| one.value.clone()?.value)
    };
    assert_eq!(of_resource("service.name"), Some(Any::StringValue("wharf-server".to_owned())));
    assert_eq!(of_resource("k8s.namespace.name"), Some(Any::StringValue("demo".to_owned())));
    let spans = &resource.scope_spans[0].spans;
    let [prefill, chat] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!(chat.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(chat.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!((&prefill.trace_id, &prefill.parent_span_id), (&chat.trace_id, &chat.span_id));
    assert_eq!(prefill.end_time_unix_nano - prefill.start_time_unix_nano, 3_000_000);
    assert_eq!((chat.name.as_str(), chat.kind, prefill.kind), ("chat tiny", 2, 1));
    let status = chat.status.as_ref().unwrap();
    assert_eq!((status.code, status.message.as_str()), (2, "it broke off"));
    let value = |name: &str| {
        chat.attributes.iter().find(|one| one.key == name).and_then(|one| one.value.clone()?.value)
    };
    assert_eq!(value("gen_ai.usage.input_tokens"), Some(Any::IntValue(7)));
    assert_eq!(value("gen_ai.latency.time_to_first_token"), Some(Any::DoubleValue(0.5)));
    assert!(
        matches!(value("gen_ai.response.finish_reasons"), Some(Any::ArrayValue(list)) if list.values.len() == 1)
    );
}

#[tokio::test]
async fn who_traces_never_waits_for_a_collector_that_is_away_or_refuses() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (refusing, mut received) = collector(400).await;
    for endpoint in [format!("http://{closed}"), refusing] {
        let export = export(&endpoint);
        let tracer = export.tracer();
        // Far more than the queue holds: each end returns, and what has no room is dropped.
        for _ in 0..1_000 {
            tracer.begin(None).end(Ended { name: "chat".to_owned(), ..Ended::default() }, []);
        }
        stop(export).await;
        tracer.begin(None).end(Ended::default(), []);
    }
    let (_, request) = received.recv().await.unwrap();
    assert!(!request.resource_spans.is_empty());
}
