//! The protocol's messages: reading what is needed of them, and making answers.
//!
//! Names and rules are those of the Gateway API Inference Extension's endpoint picker protocol (proposal 004) and of Envoy's ext-proc API.

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{
    HeaderMap as WireHeaders, HeaderValue, HeaderValueOption, Metadata,
};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, ImmediateResponse,
    ProcessingResponse, StreamedBodyResponse, TrailersResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use http::{HeaderMap, HeaderName, HeaderValue as HttpValue};
use wharf_api::ApiError;

/// Where a request goes: a header of the request, and a key of dynamic metadata.
pub(super) const DESTINATION: &str = "x-gateway-destination-endpoint";
/// Who has answered: a key of metadata.
const SERVED: &str = "x-gateway-destination-endpoint-served";
/// Who may be picked: a key of metadata.
const SUBSET: &str = "x-gateway-destination-endpoint-subset";
const LB: &str = "envoy.lb";
const SUBSET_HINT: &str = "envoy.lb.subset_hint";
/// Headers for gateways and pickers to speak to each other.
const INTERNAL: &str = "x-gateway-";
/// Of those, what routes set and endpoints may read.
const PASSED: [&str; 3] =
    ["x-gateway-inference-fairness-id", "x-gateway-inference-objective", "x-gateway-model-name-rewrite"];
/// Largest piece of a body in one message: Envoy takes 64 KiB with the frame around it.
pub(super) const PIECE: usize = 62_000;

/// The headers; what HTTP would not take as one, pseudo headers included, is left out.
pub(super) fn headers(wire: Option<&WireHeaders>) -> HeaderMap {
    let pairs = wire.into_iter().flat_map(|wire| &wire.headers);
    pairs
        .filter_map(|HeaderValue { key, value, raw_value }| {
            // Envoy fills either, depending on its version.
            let bytes = if raw_value.is_empty() { value.as_bytes() } else { raw_value };
            Some((key.parse::<HeaderName>().ok()?, HttpValue::from_bytes(bytes).ok()?))
        })
        .collect()
}

/// The status of an answer.
pub(super) fn status(wire: Option<&WireHeaders>) -> Option<u16> {
    let header = wire?.headers.iter().find(|header| header.key == ":status")?;
    let raw = std::str::from_utf8(&header.raw_value).ok().filter(|raw| !raw.is_empty());
    raw.unwrap_or(&header.value).parse().ok()
}

/// The endpoints among which to pick, if the proxy says so: as a list, or as text with commas.
pub(super) fn subset(metadata: Option<&Metadata>) -> Option<Vec<String>> {
    let kind = metadata?.filter_metadata.get(SUBSET_HINT)?.fields.get(SUBSET)?.kind.as_ref()?;
    let texts: Vec<&str> = match kind {
        Kind::StringValue(text) => vec![text],
        Kind::ListValue(list) => list.values.iter().filter_map(text).collect(),
        Kind::NullValue(_) | Kind::NumberValue(_) | Kind::BoolValue(_) | Kind::StructValue(_) => Vec::new(),
    };
    let addresses = texts.into_iter().flat_map(|text| text.split(','));
    Some(addresses.map(str::trim).filter(|address| !address.is_empty()).map(str::to_owned).collect())
}

/// The endpoint that has answered, if the proxy says so.
pub(super) fn served(metadata: Option<&Metadata>) -> Option<&str> {
    let value = metadata?.filter_metadata.get(LB)?.fields.get(SERVED)?;
    text(value).filter(|address| !address.is_empty())
}

fn text(value: &Value) -> Option<&str> {
    match value.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The request goes to the first of these endpoints, or to a later one if that fails. What the client sent of headers that only gateways
/// may set is taken away.
pub(super) fn destination(endpoints: &[String], request: &HeaderMap) -> ProcessingResponse {
    let list = endpoints.join(",");
    let value = Value { kind: Some(Kind::StringValue(list.clone())) };
    let inner = Struct { fields: [(DESTINATION.to_owned(), value)].into() };
    let lb = Value { kind: Some(Kind::StructValue(inner)) };
    let mut names: Vec<String> = request
        .keys()
        .map(HeaderName::as_str)
        .filter(|name| name.starts_with(INTERNAL) && *name != DESTINATION && !PASSED.contains(name))
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    let mutation = HeaderMutation { set_headers: vec![header(DESTINATION, &list)], remove_headers: names };
    let common = CommonResponse {
        header_mutation: Some(mutation),
        clear_route_cache: true,
        ..CommonResponse::default()
    };
    let response = Response::RequestHeaders(HeadersResponse { response: Some(common) });
    ProcessingResponse {
        dynamic_metadata: Some(Struct { fields: [(LB.to_owned(), lb)].into() }),
        ..wrapped(response)
    }
}

/// A header of the request or of an answer of ours.
fn header(name: &str, value: &str) -> HeaderValueOption {
    let header = HeaderValue {
        key: name.to_owned(),
        // Envoy refuses messages that set both.
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

/// The answer's headers pass as they are.
pub(super) fn response_headers() -> ProcessingResponse {
    let common = CommonResponse::default();
    wrapped(Response::ResponseHeaders(HeadersResponse { response: Some(common) }))
}

/// Trailers of the request pass as they are.
pub(super) fn request_trailers() -> ProcessingResponse {
    wrapped(Response::RequestTrailers(TrailersResponse::default()))
}

/// Trailers of the answer pass as they are.
pub(super) fn response_trailers() -> ProcessingResponse {
    wrapped(Response::ResponseTrailers(TrailersResponse::default()))
}

/// Whether pieces end a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// With the last of them.
    Here,
    /// More, or trailers, follow.
    Later,
}

/// A piece of the request's body, in messages that Envoy takes.
pub(super) fn request_body(piece: &[u8], ends: Ends) -> impl Iterator<Item = ProcessingResponse> {
    pieces(piece, ends).map(|body| wrapped(Response::RequestBody(body)))
}

/// A piece of the answer's body, in messages that Envoy takes.
pub(super) fn response_body(piece: &[u8], ends: Ends) -> impl Iterator<Item = ProcessingResponse> {
    pieces(piece, ends).map(|body| wrapped(Response::ResponseBody(body)))
}

fn pieces(piece: &[u8], ends: Ends) -> impl Iterator<Item = BodyResponse> {
    let count = piece.len().div_ceil(PIECE).max(1);
    (0..count).map(move |number| {
        let start = number * PIECE;
        let streamed = StreamedBodyResponse {
            body: piece[start..piece.len().min(start + PIECE)].to_vec(),
            end_of_stream: ends == Ends::Here && number + 1 == count,
            ..StreamedBodyResponse::default()
        };
        let mutation = BodyMutation { mutation: Some(Mutation::StreamedResponse(streamed)) };
        let common = CommonResponse { body_mutation: Some(mutation), ..CommonResponse::default() };
        BodyResponse { response: Some(common) }
    })
}

/// The request is refused, in OpenAI's form.
pub(super) fn refusal(error: &ApiError) -> ProcessingResponse {
    let mut set_headers = vec![header("content-type", "application/json")];
    if let Some(seconds) = error.retry_after_seconds() {
        set_headers.push(header("retry-after", &seconds.to_string()));
    }
    wrapped(Response::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus { code: error.status().into() }),
        headers: Some(HeaderMutation { set_headers, remove_headers: Vec::new() }),
        // Our own types hold nothing that JSON has no form for.
        body: serde_json::to_vec(&error.body()).unwrap_or_default(),
        details: error.code().unwrap_or("refused").to_owned(),
        ..ImmediateResponse::default()
    }))
}

fn wrapped(response: Response) -> ProcessingResponse {
    ProcessingResponse { response: Some(response), ..ProcessingResponse::default() }
}
