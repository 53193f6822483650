//! How model servers do: Wharf's own and vLLM's have the same names.

use wharf_telemetry::metrics::Metric;
use wharf_telemetry::metrics::server::{
    E2E_SECONDS, GENERATION_TOKENS, HTTP_REQUESTS, INTER_TOKEN_SECONDS, ITERATION_TOKENS, KV_CACHE_USAGE,
    LOAD_SECONDS, PREEMPTIONS, PREFILL_SECONDS, PREFIX_HITS, PREFIX_QUERIES, PROMPT_TOKENS, QUEUE_SECONDS,
    REQUESTS_RUNNING, REQUESTS_WAITING, SPEC_ACCEPTED_TOKENS, SPEC_DRAFT_TOKENS, TTFT_SECONDS,
};

use super::{Dashboard, Row, Shape, Variable, panel, quantiles};
use crate::{COLOUR_LABEL, SERVICE_LABEL};

pub(super) fn dashboard() -> Dashboard {
    let of = format!(r#"namespace=~"$namespace",{SERVICE_LABEL}=~"$llm""#);
    let running = REQUESTS_RUNNING.name;
    let variables = vec![
        Variable { name: "namespace", label: "Namespace", of: running.to_owned(), value: "namespace" },
        Variable {
            name: "llm",
            label: "Service",
            of: format!(r#"{running}{{namespace=~"$namespace"}}"#),
            value: SERVICE_LABEL,
        },
    ];
    let by_pod = |metric: &Metric| format!("sum by (pod) ({metric}{{{of}}})");
    let rate = |metric: &Metric| {
        format!("sum by ({SERVICE_LABEL}, {COLOUR_LABEL}) (rate({metric}{{{of}}}[$__rate_interval]))")
    };
    let ratio = |part: &Metric, whole: &Metric| format!("{} / {}", rate(part), rate(whole));
    let version = "{{wharf_dev_service}} {{wharf_dev_colour}}";
    let times = |metric: &Metric| quantiles(metric.name, &of, SERVICE_LABEL);
    Dashboard {
        name: "engine",
        title: "Engines",
        description: "What model servers compute, and what they wait for. Wharf's own engine and vLLM; SGLang and llama.cpp have other names.",
        variables,
        rows: vec![
            Row {
                title: "Load",
                panels: vec![
                    panel("Running", "Requests that share the steps of a replica.", "short", vec![(by_pod(&REQUESTS_RUNNING), "{{pod}}")]),
                    panel("Waiting", "Requests that a replica has accepted and not begun: for long, replicas are too few.", "short", vec![(by_pod(&REQUESTS_WAITING), "{{pod}}")]),
                    panel("KV cache", "Share of the KV cache that running requests use; near 1 they wait for each other.", "percentunit", vec![(format!("max by (pod) ({KV_CACHE_USAGE}{{{of}}})"), "{{pod}}")]),
                ],
            },
            Row {
                title: "Speed",
                panels: vec![
                    panel("Generated tokens", "Tokens a second, by version.", "short", vec![(rate(&GENERATION_TOKENS), version)]),
                    panel("Prompt tokens", "Tokens of prompts a second, by version.", "short", vec![(rate(&PROMPT_TOKENS), version)]),
                    panel("Tokens in a step", "Tokens that are computed together: more is more for the same time.", "short", times(&ITERATION_TOKENS)),
                    panel("First token", "Seconds from a request's arrival at the replica to its first token.", "s", times(&TTFT_SECONDS)),
                    panel("Between tokens", "Seconds between two tokens of an answer.", "s", times(&INTER_TOKEN_SECONDS)),
                    panel("Whole answers", "Seconds from a request's arrival to the end of its answer.", "s", times(&E2E_SECONDS)),
                    panel("Waited in the queue", "Seconds before a request was begun.", "s", times(&QUEUE_SECONDS)),
                    panel("Read the prompt", "Seconds from the beginning of the computation to the first token.", "s", times(&PREFILL_SECONDS)),
                    panel("Load of the model", "Seconds that loading took when the replica started.", "s", vec![(format!("max by (pod) ({LOAD_SECONDS}{{{of}}})"), "{{pod}}")]),
                ],
            },
            Row {
                title: "What is saved, and what is lost",
                panels: vec![
                    panel("Prompt found in the prefix cache", "Share of prompt tokens that need no computing.", "percentunit", vec![(ratio(&PREFIX_HITS, &PREFIX_QUERIES), version)]),
                    panel("Guesses that were right", "Share of guessed tokens that saved a step.", "percentunit", vec![(ratio(&SPEC_ACCEPTED_TOKENS, &SPEC_DRAFT_TOKENS), version)]),
                    panel("Preemptions", "Times that a request lost its place in the KV cache to another, a second.", "short", vec![(rate(&PREEMPTIONS), version)]),
                    panel(
                        "Answers by status",
                        "Answers of Wharf's own engine.",
                        "reqps",
                        vec![(format!("sum by ({SERVICE_LABEL}, status) (rate({HTTP_REQUESTS}{{{of}}}[$__rate_interval]))"), "{{wharf_dev_service}} {{status}}")],
                    )
                    .shaped(Shape::Stacked),
                ],
            },
        ],
    }
}
