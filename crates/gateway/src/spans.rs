//! How requests are called in traces: names and attributes of OpenTelemetry's conventions for HTTP and for generative AI. Pure.

use std::time::Instant;

use wharf_telemetry::trace::{Ended, Part, Value};

/// A request that is over, by its path and status.
pub(crate) fn ended(path: &'static str, status: u16) -> Ended {
    let mut attributes = vec![
        ("http.request.method", if path.starts_with("/v1/models") { "GET" } else { "POST" }.into()),
        ("http.route", path.into()),
        ("http.response.status_code", u64::from(status).into()),
    ];
    let operation = match path {
        "/v1/chat/completions" | "/v1/responses" => Some("chat"),
        "/v1/completions" => Some("text_completion"),
        "/v1/embeddings" => Some("embeddings"),
        _ => None,
    };
    if let Some(operation) = operation {
        attributes.push(("gen_ai.operation.name", operation.into()));
    }
    // What a client did wrong is no error of the server's span.
    let error = (status >= 500).then(|| format!("answered {status}"));
    if status >= 400 {
        attributes.push(("error.type", status.to_string().as_str().into()));
    }
    Ended { name: path.to_owned(), attributes, error }
}

/// A part of a request, from one moment to another.
pub(crate) fn part(
    name: &'static str,
    began: Instant,
    ended: Instant,
    attributes: Vec<(&'static str, Value)>,
) -> Part {
    Part { name, began, took: ended.saturating_duration_since(began), attributes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_servers_own_failures_are_errors_of_the_span() {
        assert!(ended("/v1/chat/completions", 503).error.is_some());
        let refused = ended("/v1/chat/completions", 429);
        assert!(refused.error.is_none() && refused.attributes.contains(&("error.type", "429".into())));
        assert!(!ended("/v1/models", 200).attributes.iter().any(|(name, _)| name.starts_with("gen_ai")));
    }
}
