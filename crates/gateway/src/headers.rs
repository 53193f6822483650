//! Which headers go on, in both directions.

use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use wharf_telemetry::trace::Trace;

/// The request's id: the client's if it is fit for headers and logs, else a new one.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A session's name: its requests stay together.
pub(crate) const SESSION: HeaderName = HeaderName::from_static("x-session-id");
/// W3C Trace Context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Of one connection, not of the message (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("proxy-connection"),
];

/// What only the platform may say. A client that could would pick its own endpoint or priority.
const INTERNAL: [&str; 6] = ["x-gateway-", "x-wharf-", "x-smg-", "x-llm-d-", "x-envoy-", "x-slo-"];

/// The headers that an endpoint gets. `key` stands in for the client's key, which an endpoint has no business with.
pub(crate) fn to_endpoint(headers: &HeaderMap, id: &HeaderValue, key: Option<&HeaderValue>) -> HeaderMap {
    let mut sent = HeaderMap::with_capacity(headers.len() + 2);
    let named = connection_names(headers);
    for (name, value) in headers {
        let own =
            *name == HOST || *name == CONTENT_LENGTH || *name == AUTHORIZATION || *name == ACCEPT_ENCODING;
        let internal = INTERNAL.iter().any(|prefix| name.as_str().starts_with(prefix));
        if own || internal || is_hop_by_hop(name, &named) || *name == REQUEST_ID {
            continue;
        }
        sent.append(name.clone(), value.clone());
    }
    sent.insert(REQUEST_ID, id.clone());
    if let Some(key) = key {
        sent.insert(AUTHORIZATION, key.clone());
    }
    sent
}

/// Where the request is in its trace. Without traces of our own the client's header goes on as it came.
pub(crate) fn trace(headers: &mut HeaderMap, trace: &Trace) {
    if let Some(value) = trace.traceparent().and_then(|header| HeaderValue::try_from(header).ok()) {
        headers.insert(TRACEPARENT, value);
    }
}

/// The headers of an endpoint's answer that the client gets. Its length stays: bodies pass whole.
pub(crate) fn to_client(headers: &HeaderMap) -> HeaderMap {
    let named = connection_names(headers);
    let mut sent = HeaderMap::with_capacity(headers.len() + 2);
    for (name, value) in headers {
        if !is_hop_by_hop(name, &named) && *name != REQUEST_ID {
            sent.append(name.clone(), value.clone());
        }
    }
    sent
}

fn is_hop_by_hop(name: &HeaderName, named: &[HeaderName]) -> bool {
    HOP_BY_HOP.contains(name) || named.contains(name)
}

/// Headers that `Connection` declares to be of the connection.
fn connection_names(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect()
}

/// The client's request id if it can be used, else a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers
        .get(REQUEST_ID)
        .filter(|id| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic));
    given.cloned().unwrap_or_else(|| {
        let id = format!("{:032x}", fastrand::u128(..));
        HeaderValue::try_from(id).expect("hex digits")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn an_endpoint_gets_neither_the_clients_key_nor_what_only_the_platform_may_say() {
        let client = map(&[
            ("authorization", "Bearer secret"),
            ("x-gateway-destination-endpoint", "10.0.0.1:22"),
            ("x-wharf-priority", "system"),
            ("connection", "keep-alive, x-secret"),
            ("x-secret", "1"),
            ("traceparent", "00-abc"),
            ("content-type", "application/json"),
        ]);
        let sent = to_endpoint(&client, &HeaderValue::from_static("id"), None);
        let names: Vec<&str> = sent.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["traceparent", "content-type", "x-request-id"]);
    }

    #[test]
    fn request_ids_that_break_logs_are_replaced() {
        assert_eq!(request_id(&map(&[("x-request-id", "abc-1")])), "abc-1");
        assert_eq!(request_id(&map(&[("x-request-id", "a b")])).len(), 32);
        assert_eq!(request_id(&map(&[])).len(), 32);
    }
}
