//! A request through gateway, server and engine, as a collector of OpenTelemetry sees it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use wharf_gateway::{Gateway, GatewayConfig, ServiceConfig};
use wharf_otlp::{Export, Settings};

use super::support::*;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const PROMPT: &str = "quick brown marmot";

/// What a collector has got: the service's name with each span.
type Received = Arc<Mutex<Vec<(String, Span)>>>;

async fn collector() -> (String, Received) {
    let received = Received::default();
    let taken = Arc::clone(&received);
    let take = move |body: Bytes| {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        for resource in request.resource_spans {
            let attributes = &resource.resource.as_ref().unwrap().attributes;
            let service = attributes.iter().find(|one| one.key == "service.name").unwrap();
            let service = text(service.value.as_ref());
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            taken.lock().unwrap().extend(spans.map(|span| (service.clone(), span)));
        }
        std::future::ready(())
    };
    let router = axum::Router::new().route("/v1/traces", axum::routing::post(take));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(socket, router).await });
    (format!("http://{address}"), received)
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.clone()) {
        Some(Any::StringValue(text)) => text,
        Some(Any::IntValue(count)) => count.to_string(),
        Some(Any::DoubleValue(real)) => real.to_string(),
        Some(Any::ArrayValue(list)) => {
            list.values.iter().map(|one| text(Some(one))).collect::<Vec<_>>().join(",")
        }
        other => format!("{other:?}"),
    }
}

fn attribute(span: &Span, name: &str) -> String {
    text(span.attributes.iter().find(|one| one.key == name).and_then(|one| one.value.as_ref()))
}

fn export(endpoint: &str, service: &str) -> Export {
    let env = BTreeMap::from([("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint.to_owned())]);
    Export::start(Settings::from_env(&env, service).unwrap().unwrap()).unwrap()
}

async fn stop(export: Export) {
    tokio::task::spawn_blocking(|| export.stop()).await.unwrap();
}

/// A gateway in front of the server, on a port of its own.
async fn gateway(server: &Running, export: &Export) -> (String, oneshot::Sender<()>) {
    let services = vec![ServiceConfig::new("demo/tiny", [server.at.http.to_string()])];
    let config = GatewayConfig {
        port: 0,
        https_port: 0,
        metrics_port: 0,
        threads: Some(1),
        services,
        ..GatewayConfig::default()
    };
    let gateway = Gateway::bind_traced(config, export.tracer()).unwrap();
    let url = format!("http://{}", gateway.addresses().http);
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(gateway.serve(async { drop(stopped.await) }));
    (url, stop)
}

async fn ask(server: &Running, url: &str, more: Value) -> (u16, String) {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4, "ignore_eos": true});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let request = server.client.post(format!("{url}/v1/chat/completions")).header("traceparent", PARENT);
    let response = request.json(&body).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_request_is_one_trace_through_gateway_server_and_engine() {
    let (endpoint, received) = collector().await;
    let (of_gateway, of_server) = (export(&endpoint, "wharf-gateway"), export(&endpoint, "wharf-server"));
    let server = start_traced(config(), engine_config(), of_server.tracer()).await;
    let (url, end) = gateway(&server, &of_gateway).await;
    for stream in [false, true] {
        assert_eq!(ask(&server, &url, json!({"stream": stream})).await.0, 200);
        until(|| async { server.engine.snapshot().running == 0 }).await;
    }
    drop(end);
    stop(of_gateway).await;
    stop(of_server).await;
    let spans = received.lock().unwrap().clone();
    let of = |service: &str, name: &str| {
        let found = spans.iter().filter(|(of, span)| of == service && span.name == name);
        found.map(|(_, span)| span.clone()).collect::<Vec<_>>()
    };
    let (asked, answered) = (of("wharf-gateway", "/v1/chat/completions"), of("wharf-server", "chat tiny"));
    assert_eq!((asked.len(), answered.len()), (2, 2), "{spans:?}");
    for asked in &asked {
        assert_eq!(asked.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
        assert_eq!(asked.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
        let answered =
            answered.iter().find(|span| span.parent_span_id == asked.span_id).expect("below the gateway's");
        assert_eq!(answered.trace_id, asked.trace_id);
        for span in [asked, answered] {
            assert_eq!(attribute(span, "gen_ai.operation.name"), "chat");
            assert_eq!(attribute(span, "gen_ai.provider.name"), "wharf");
            assert_eq!(attribute(span, "gen_ai.request.model"), "tiny");
            assert_eq!(attribute(span, "gen_ai.usage.output_tokens"), "4");
            assert_eq!(attribute(span, "gen_ai.response.finish_reasons"), "length");
            assert_eq!(attribute(span, "http.response.status_code"), "200");
            assert!(attribute(span, "gen_ai.latency.time_to_first_token").parse::<f64>().unwrap() > 0.0);
        }
        assert_eq!(attribute(answered, "gen_ai.response.model"), "tiny");
        let mut parts: Vec<&Span> = spans
            .iter()
            .map(|(_, span)| span)
            .filter(|span| span.parent_span_id == answered.span_id)
            .collect();
        parts.sort_by_key(|span| span.start_time_unix_nano);
        let names: Vec<&str> = parts.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["queue", "prefill", "decode"]);
        assert!(parts.iter().all(|part| part.start_time_unix_nano >= answered.start_time_unix_nano));
    }
    let told = format!("{spans:?}");
    assert!(!told.contains(PROMPT), "a prompt is in no span");
}

#[tokio::test]
async fn requests_that_fail_say_so_and_probes_leave_nothing() {
    let (endpoint, received) = collector().await;
    let export = export(&endpoint, "wharf-server");
    let server = start_traced(config(), engine_config(), export.tracer()).await;
    server.get("/health").await;
    assert_eq!(ask(&server, &server.url(""), json!({"max_tokens": -1})).await.0, 400);
    server.gate.explode();
    assert_eq!(ask(&server, &server.url(""), json!({})).await.0, 500);
    stop(export).await;
    let spans = received.lock().unwrap().clone();
    let [(_, refused), (_, failed)] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!(
        (refused.name.as_str(), attribute(refused, "error.type")),
        ("/v1/chat/completions", "400".to_owned())
    );
    assert_eq!(refused.status.as_ref().map_or(0, |status| status.code), 0);
    assert_eq!((failed.name.as_str(), attribute(failed, "error.type")), ("chat tiny", "500".to_owned()));
    assert_eq!(failed.status.as_ref().map_or(0, |status| status.code), 2);
}
