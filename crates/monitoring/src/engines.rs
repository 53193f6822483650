//! What engines call the numbers that alerts ask for. Those of others are listed here, with the labels and bounds that their current
//! versions have; Wharf's own are in the metric table, under vLLM's names where vLLM has them.

use wharf_telemetry::metrics::{Kind, Metric, server};

/// What alerts ask of an engine; what it does not count is not there.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Histogram of seconds to the first token.
    pub first_token: Option<&'static Metric>,
    /// Histogram of seconds between tokens.
    pub between_tokens: Option<&'static Metric>,
    /// Counter of answers, and which of them failed.
    pub answers: Option<(&'static Metric, &'static str)>,
    /// Requests that wait.
    pub waiting: Option<&'static Metric>,
}

/// Wharf's own engine.
pub const WHARF: Names = Names {
    first_token: Some(&server::TTFT_SECONDS),
    between_tokens: Some(&server::INTER_TOKEN_SECONDS),
    answers: Some((&server::HTTP_REQUESTS, r#"status=~"5..""#)),
    waiting: Some(&server::REQUESTS_WAITING),
};

/// vLLM. Its counter of answers says `5xx`.
pub const VLLM: Names = Names {
    first_token: Some(&server::TTFT_SECONDS),
    between_tokens: Some(&server::INTER_TOKEN_SECONDS),
    answers: Some((&foreign::VLLM_HTTP, r#"status=~"5..""#)),
    waiting: Some(&server::REQUESTS_WAITING),
};

/// SGLang, which does not count failures.
pub const SGLANG: Names = Names {
    first_token: Some(&foreign::SGLANG_TTFT),
    between_tokens: Some(&foreign::SGLANG_INTER_TOKEN),
    answers: None,
    waiting: Some(&foreign::SGLANG_QUEUE),
};

/// llama.cpp, which has no histograms.
pub const LLAMA_CPP: Names = Names {
    first_token: None,
    between_tokens: None,
    answers: None,
    waiting: Some(&foreign::LLAMACPP_DEFERRED),
};

/// An engine of which nothing is known.
pub const CUSTOM: Names = Names { first_token: None, between_tokens: None, answers: None, waiting: None };

/// Metrics of engines of others, beside those that Wharf's own engine has under the same name.
pub mod foreign {
    use super::{Kind, Metric};

    const MODEL: &[&str] = &["model_name"];
    /// SGLang's, unless its command line says others.
    const SGLANG_TTFT_BOUNDS: &[f64] = &[
        0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0, 200.0, 400.0,
    ];
    const SGLANG_INTER_TOKEN_BOUNDS: &[f64] = &[
        0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4,
        0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0,
    ];

    /// vLLM's answers, counted by its web framework.
    pub static VLLM_HTTP: Metric = Metric {
        name: "http_requests_total",
        kind: Kind::Counter,
        labels: &["handler", "method", "status"],
        help: "HTTP responses by handler, method and status class.",
    };
    /// SGLang's time to the first token.
    pub static SGLANG_TTFT: Metric = Metric {
        name: "sglang:time_to_first_token_seconds",
        kind: Kind::Histogram(SGLANG_TTFT_BOUNDS),
        labels: MODEL,
        help: "Seconds to the first token.",
    };
    /// SGLang's time between tokens.
    pub static SGLANG_INTER_TOKEN: Metric = Metric {
        name: "sglang:inter_token_latency_seconds",
        kind: Kind::Histogram(SGLANG_INTER_TOKEN_BOUNDS),
        labels: MODEL,
        help: "Seconds between tokens.",
    };
    /// SGLang's queue.
    pub static SGLANG_QUEUE: Metric = Metric {
        name: "sglang:num_queue_reqs",
        kind: Kind::Gauge,
        labels: MODEL,
        help: "Requests that wait.",
    };
    /// llama.cpp's queue.
    pub static LLAMACPP_DEFERRED: Metric = Metric {
        name: "llamacpp:requests_deferred",
        kind: Kind::Gauge,
        labels: &[],
        help: "Requests that wait for a slot.",
    };

    /// All of them.
    pub static ALL: &[&Metric] =
        &[&VLLM_HTTP, &SGLANG_TTFT, &SGLANG_INTER_TOKEN, &SGLANG_QUEUE, &LLAMACPP_DEFERRED];
}
