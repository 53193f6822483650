//! An endpoint picker on ports of its own, and a stream to it as Envoy opens one for each request.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyResponse, HttpBody, HttpHeaders, ImmediateResponse, ProcessingRequest, ProcessingResponse,
    StreamedBodyResponse,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use wharf_fakes::engine::{EngineConfig, FakeEngine};
use wharf_gateway::Handle;
use wharf_gateway::config::EndpointConfig;
use wharf_gateway::epp::{Epp, EppAddresses, EppConfig, EppTls};

/// Nothing in these tests takes as long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The only pool of these tests.
pub(crate) const POOL: &str = "demo/pool";

/// An endpoint picker that runs until the test ends.
pub(crate) struct Running {
    pub(crate) addresses: EppAddresses,
    pub(crate) handle: Handle,
    channel: Channel,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    /// The addresses that take requests.
    pub(crate) fn ready(&self) -> Vec<String> {
        let demand = self.handle.demand();
        let endpoints = demand.services.into_values().flat_map(|demand| demand.endpoints);
        endpoints.filter(|(_, load)| load.ready).map(|(address, _)| address).collect()
    }
}

/// Engines that serve `fake-model`.
pub(crate) async fn engines(count: usize) -> Vec<FakeEngine> {
    let mut engines = Vec::new();
    for number in 0..count {
        engines.push(FakeEngine::start(EngineConfig::named(format!("e{number}"))).await.unwrap());
    }
    engines
}

pub(crate) fn addresses(engines: &[FakeEngine]) -> Vec<String> {
    engines.iter().map(|engine| engine.address().to_string()).collect()
}

/// The configuration that tests begin with: in plain text, ports that the system chooses.
pub(crate) fn config(engines: &[FakeEngine]) -> EppConfig {
    let mut config = EppConfig {
        port: 0,
        health_port: 0,
        metrics_port: 0,
        tls: EppTls::Plaintext,
        pool: POOL.to_owned(),
        endpoints: addresses(engines).into_iter().map(EndpointConfig::Address).collect(),
        drain: 5.0,
        ..EppConfig::default()
    };
    config.polling.health = 0.05;
    config.polling.metrics = 0.05;
    config.polling.timeout = 0.5;
    config
}

impl Running {
    pub(crate) async fn start(config: EppConfig) -> Running {
        let epp = Epp::bind(config).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (addresses, handle) = (epp.addresses(), epp.handle());
        let task = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            epp.serve(stopped).await.unwrap();
        });
        let url = format!("http://{}", addresses.grpc);
        let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
        Running { addresses, handle, channel, stop: Some(stop), task }
    }

    /// A stream for one request.
    pub(crate) async fn open(&self) -> Exchange {
        let (sender, receiver) = mpsc::channel(64);
        let mut client = ExternalProcessorClient::new(self.channel.clone());
        let replies = client.process(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Exchange { sender, replies }
    }

    /// A request with this body, up to the pick.
    pub(crate) async fn ask(&self, body: &str) -> (Exchange, Reply) {
        self.ask_with(&[], Metadata::default(), body.as_bytes()).await
    }

    /// A request with these headers, metadata and body, up to the pick.
    pub(crate) async fn ask_with(
        &self,
        headers: &[(&str, &str)],
        metadata: Metadata,
        body: &[u8],
    ) -> (Exchange, Reply) {
        let mut exchange = self.open().await;
        exchange.head(headers, metadata, false).await;
        let mut pieces = body.chunks(10_000).peekable();
        while let Some(piece) = pieces.next() {
            exchange.say(Request::RequestBody(piece_of(piece, pieces.peek().is_none()))).await;
        }
        let reply = exchange.picked(true).await;
        (exchange, reply)
    }

    /// The addresses of these bodies' endpoints, one request after the other.
    pub(crate) async fn picks(&self, bodies: &[String]) -> Vec<String> {
        let mut picks = Vec::new();
        for body in bodies {
            let (mut exchange, reply) = self.ask(body).await;
            picks.push(reply.endpoints()[0].clone());
            exchange.answer(200, None, &["{}"]).await;
        }
        picks
    }

    /// Requests that are in flight.
    pub(crate) fn in_flight(&self) -> u64 {
        self.handle.in_flight()
    }

    /// Stops as on SIGTERM and waits for the end.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        timeout(PATIENCE, &mut self.task).await.expect("the picker stops").unwrap();
    }
}

/// A stream to the picker.
pub(crate) struct Exchange {
    sender: mpsc::Sender<ProcessingRequest>,
    replies: Streaming<ProcessingResponse>,
}

/// What the picker says to a request.
#[derive(Debug)]
pub(crate) enum Reply {
    Goes {
        /// The headers' answer, metadata with it.
        head: Box<ProcessingResponse>,
        /// The body as it goes on.
        body: Vec<u8>,
        /// Lengths of its pieces.
        pieces: Vec<usize>,
    },
    Refused(ImmediateResponse),
}

impl Exchange {
    pub(crate) async fn say(&self, request: Request) {
        self.say_with(request, Metadata::default()).await;
    }

    pub(crate) async fn say_with(&self, request: Request, metadata: Metadata) {
        let metadata_context = Some(metadata);
        let message =
            ProcessingRequest { request: Some(request), metadata_context, ..ProcessingRequest::default() };
        self.sender.send(message).await.unwrap();
    }

    pub(crate) async fn head(&self, headers: &[(&str, &str)], metadata: Metadata, end_of_stream: bool) {
        let mut all = vec![(":method", "POST"), (":path", "/v1/chat/completions")];
        all.push(("content-type", "application/json"));
        all.extend(headers);
        self.say_with(Request::RequestHeaders(head_of(&all, end_of_stream)), metadata).await;
    }

    pub(crate) async fn hear(&mut self) -> Result<Option<ProcessingResponse>, Status> {
        timeout(PATIENCE, self.replies.message()).await.expect("the picker says something")
    }

    /// What is said to the request; `with_body` up to its body's end.
    pub(crate) async fn picked(&mut self, with_body: bool) -> Reply {
        let head = self.hear().await.unwrap().unwrap();
        if let Some(Response::ImmediateResponse(refusal)) = head.response {
            return Reply::Refused(refusal);
        }
        let (mut body, mut pieces) = (Vec::new(), Vec::new());
        let mut ended = !with_body;
        while !ended {
            let Some(Response::RequestBody(reply)) = self.hear().await.unwrap().unwrap().response else {
                panic!("a piece of the body is next")
            };
            let piece = streamed(reply);
            pieces.push(piece.body.len());
            body.extend(piece.body);
            ended = piece.end_of_stream;
        }
        Reply::Goes { head: Box::new(head), body, pieces }
    }

    /// The answer's head, by this endpoint if one is named.
    pub(crate) async fn answer_head(&mut self, status: u16, headers: &[(&str, &str)], served: Option<&str>) {
        let status = status.to_string();
        let mut all = vec![(":status", status.as_str())];
        all.extend(headers);
        let metadata = served.map_or_else(Metadata::default, |address| {
            metadata("envoy.lb", "x-gateway-destination-endpoint-served", text(address))
        });
        self.say_with(Request::ResponseHeaders(head_of(&all, false)), metadata).await;
        let reply = self.hear().await.unwrap().unwrap().response;
        assert!(matches!(reply, Some(Response::ResponseHeaders(_))), "{reply:?}");
    }

    /// A piece of the answer goes through as it is.
    pub(crate) async fn answer_piece(&mut self, piece: &str, ends: bool) {
        self.say(Request::ResponseBody(piece_of(piece.as_bytes(), ends))).await;
        let Some(Response::ResponseBody(reply)) = self.hear().await.unwrap().unwrap().response else {
            panic!("the piece comes back")
        };
        let passed = streamed(reply);
        assert_eq!((passed.body, passed.end_of_stream), (piece.as_bytes().to_vec(), ends));
    }

    /// A whole answer, by this endpoint if one is named.
    pub(crate) async fn answer(&mut self, status: u16, served: Option<&str>, pieces: &[&str]) {
        self.answer_head(status, &[("content-type", "application/json")], served).await;
        for (number, piece) in pieces.iter().enumerate() {
            self.answer_piece(piece, number + 1 == pieces.len()).await;
        }
    }
}

impl Reply {
    pub(crate) fn endpoints(&self) -> Vec<String> {
        let Reply::Goes { head, .. } = self else { panic!("refused: {self:?}") };
        let Some(Response::RequestHeaders(reply)) = &head.response else { panic!("no headers: {head:?}") };
        let common = reply.response.as_ref().unwrap();
        assert!(common.clear_route_cache);
        let set = &common.header_mutation.as_ref().unwrap().set_headers;
        let header = set[0].header.as_ref().unwrap();
        assert_eq!((header.key.as_str(), header.value.as_str()), ("x-gateway-destination-endpoint", ""));
        let list = String::from_utf8(header.raw_value.clone()).unwrap();
        let lb = &head.dynamic_metadata.as_ref().unwrap().fields["envoy.lb"];
        let Some(Kind::StructValue(lb)) = &lb.kind else { panic!("no struct: {lb:?}") };
        assert_eq!(lb.fields["x-gateway-destination-endpoint"], text(&list));
        list.split(',').map(str::to_owned).collect()
    }

    /// Headers that are taken away.
    pub(crate) fn removed(&self) -> Vec<String> {
        let Reply::Goes { head, .. } = self else { panic!("refused: {self:?}") };
        let Some(Response::RequestHeaders(reply)) = &head.response else { panic!("no headers: {head:?}") };
        reply.response.clone().unwrap().header_mutation.unwrap().remove_headers
    }

    /// Status and OpenAI's error code.
    pub(crate) fn refusal(&self) -> (i32, String) {
        let Reply::Refused(refusal) = self else { panic!("not refused: {self:?}") };
        let body: serde_json::Value = serde_json::from_slice(&refusal.body).unwrap();
        (refusal.status.unwrap().code, body["error"]["code"].as_str().unwrap().to_owned())
    }
}

pub(crate) fn metadata(namespace: &str, key: &str, value: Value) -> Metadata {
    let fields = Struct { fields: [(key.to_owned(), value)].into() };
    Metadata { filter_metadata: [(namespace.to_owned(), fields)].into(), ..Metadata::default() }
}

pub(crate) fn subset(value: Value) -> Metadata {
    metadata("envoy.lb.subset_hint", "x-gateway-destination-endpoint-subset", value)
}

pub(crate) fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

pub(crate) fn head_of(headers: &[(&str, &str)], end_of_stream: bool) -> HttpHeaders {
    let header = |(key, value): &(&str, &str)| HeaderValue {
        key: (*key).to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let headers = Some(HeaderMap { headers: headers.iter().map(header).collect() });
    HttpHeaders { headers, end_of_stream, ..HttpHeaders::default() }
}

fn piece_of(piece: &[u8], end_of_stream: bool) -> HttpBody {
    HttpBody { body: piece.to_vec(), end_of_stream, ..HttpBody::default() }
}

fn streamed(reply: BodyResponse) -> StreamedBodyResponse {
    match reply.response.unwrap().body_mutation.unwrap().mutation {
        Some(Mutation::StreamedResponse(piece)) => piece,
        other => panic!("not streamed: {other:?}"),
    }
}

/// A chat request with this text.
pub(crate) fn chat(text: &str) -> String {
    serde_json::json!({"model": "fake-model", "messages": [{"role": "user", "content": text}]}).to_string()
}

/// Waits for a condition that becomes true by itself.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let met = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, met).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}
