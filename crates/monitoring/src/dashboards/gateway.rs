//! How gateways do.

use wharf_telemetry::metrics::gateway::{
    CONNECTIONS, ENDPOINTS, FIRST_BYTE_SECONDS, HELD, HELD_SECONDS, IN_FLIGHT, KEY_TOKENS, PEER_ASKS_REFUSED,
    PEER_REPORTS, PEERS, PREFIX_CACHED, QUEUED, REFUSED, REQUEST_SECONDS, REQUESTS, RETRIES, TLS_RELOADS,
    USAGE_LINES_LOST,
};

use super::{Dashboard, Row, Shape, Variable, panel, quantiles};

const OF: &str = r#"service=~"$service""#;

pub(super) fn dashboard() -> Dashboard {
    let variable =
        Variable { name: "service", label: "Service", of: QUEUED.name.to_owned(), value: "service" };
    let sum = |what: String, by: &str| format!("sum by ({by}) ({what})");
    let rate = |what: String, by: &str| format!("sum by ({by}) (rate({what}[$__rate_interval]))");
    Dashboard {
        name: "gateway",
        title: "Gateways",
        description: "How requests pass: in, to an endpoint, again to another, out.",
        variables: vec![variable],
        rows: vec![
            Row {
                title: "Requests",
                panels: vec![
                    panel(
                        "Requests by version",
                        "Requests that have ended, by the version that answered.",
                        "reqps",
                        vec![(
                            rate(format!("{REQUESTS}{{{OF}}}"), "service, colour"),
                            "{{service}} {{colour}}",
                        )],
                    ),
                    panel(
                        "Failed by version",
                        "Share of a version's requests that ended with 5xx.",
                        "percentunit",
                        vec![(
                            // A version of which nothing has ever failed has no counter of it.
                            format!(
                                "({} or 0 * {1}) / {1}",
                                rate(format!(r#"{REQUESTS}{{{OF},status=~"5.."}}"#), "service, colour"),
                                rate(format!("{REQUESTS}{{{OF}}}"), "service, colour")
                            ),
                            "{{service}} {{colour}}",
                        )],
                    ),
                    panel(
                        "Not let in",
                        "Requests that were refused, by the error's code.",
                        "reqps",
                        vec![(rate(REFUSED.name.to_owned(), "reason"), "{{reason}}")],
                    )
                    .shaped(Shape::Stacked),
                    panel(
                        "First byte",
                        "Seconds until the first byte of an answer.",
                        "s",
                        quantiles(FIRST_BYTE_SECONDS.name, OF, "service"),
                    ),
                    panel(
                        "Whole answers",
                        "Seconds until the end of an answer.",
                        "s",
                        quantiles(REQUEST_SECONDS.name, OF, "service"),
                    ),
                    panel(
                        "Tokens by key",
                        "Tokens a second that the ten busiest keys use.",
                        "short",
                        vec![(
                            format!("topk(10, {})", rate(format!("{KEY_TOKENS}{{{OF}}}"), "key")),
                            "{{key}}",
                        )],
                    ),
                ],
            },
            Row {
                title: "Endpoints",
                panels: vec![
                    panel(
                        "At endpoints",
                        "Requests that are being answered.",
                        "short",
                        vec![(sum(format!("{IN_FLIGHT}{{{OF}}}"), "service"), "{{service}}")],
                    ),
                    panel(
                        "Waiting",
                        "Requests that no endpoint can take: a service wakes, or replicas are too few.",
                        "short",
                        vec![(sum(format!("{QUEUED}{{{OF}}}"), "service"), "{{service}}")],
                    ),
                    panel(
                        "Endpoints by state",
                        "As one gateway sees them: ready, broken (it avoids them), out.",
                        "short",
                        vec![(
                            format!("max by (service, state) ({ENDPOINTS}{{{OF}}})"),
                            "{{service}} {{state}}",
                        )],
                    ),
                    panel(
                        "Had to wait",
                        "Requests that waited for an endpoint.",
                        "reqps",
                        vec![(rate(format!("{HELD}{{{OF}}}"), "service"), "{{service}}")],
                    ),
                    panel(
                        "Waited",
                        "Seconds that they waited.",
                        "s",
                        quantiles(HELD_SECONDS.name, OF, "service"),
                    ),
                    panel(
                        "Tried again",
                        "Requests that went on to another endpoint, by why.",
                        "reqps",
                        vec![(
                            rate(format!("{RETRIES}{{{OF}}}"), "service, reason"),
                            "{{service}} {{reason}}",
                        )],
                    ),
                    panel(
                        "Prompt cached where it was sent",
                        "Share of a prompt that the picked endpoint should have cached, as the gateway estimates it.",
                        "percentunit",
                        quantiles(PREFIX_CACHED.name, OF, "service"),
                    ),
                ],
            },
            Row {
                title: "Gateways",
                panels: vec![
                    panel(
                        "Connections",
                        "Open client connections.",
                        "short",
                        vec![(sum(CONNECTIONS.name.to_owned(), "pod"), "{{pod}}")],
                    ),
                    panel(
                        "Other gateways",
                        "As each hears them; missing ones do not share limits.",
                        "short",
                        vec![(sum(PEERS.name.to_owned(), "pod, state"), "{{pod}} {{state}}")],
                    ),
                    panel(
                        "Asked each other",
                        "Reports of what keys have used, by how they went; and askers without the secret.",
                        "ops",
                        vec![
                            (rate(PEER_REPORTS.name.to_owned(), "result"), "{{result}}"),
                            (rate(PEER_ASKS_REFUSED.name.to_owned(), "pod"), "refused by {{pod}}"),
                        ],
                    ),
                    panel(
                        "Certificate",
                        "Reloads of the certificate in the last hour, by how they went.",
                        "short",
                        vec![(format!("sum by (result) (increase({TLS_RELOADS}[1h]))"), "{{result}}")],
                    ),
                    panel(
                        "Lost usage lines",
                        "Lines of the usage log in the last hour that could not be written.",
                        "short",
                        vec![(format!("sum by (pod) (increase({USAGE_LINES_LOST}[1h]))"), "{{pod}}")],
                    ),
                ],
            },
        ],
    }
}
