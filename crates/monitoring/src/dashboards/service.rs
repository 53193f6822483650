//! How services do by what they promise.

use wharf_telemetry::metrics::gateway::{FIRST_BYTE_SECONDS, KEY_TOKENS, REFUSED, REQUEST_SECONDS, REQUESTS};
use wharf_telemetry::metrics::operator::{SERVICE_PHASE, SERVICE_REPLICAS};

use super::{Dashboard, Row, Shape, Variable, panel, quantiles};
use crate::rules::objectives;

const OF: &str = r#"service=~"$service""#;

pub(super) fn dashboard() -> Dashboard {
    let variable = Variable {
        name: "service",
        label: "Service",
        of: SERVICE_REPLICAS.name.to_owned(),
        value: "service",
    };
    let bad = |name: fn(&str) -> String, window: &str| format!("{}{{{OF}}}", name(window));
    let share = |name: fn(&str) -> String| {
        vec![(bad(name, "5m"), "5m {{service}}"), (bad(name, "1h"), "1h {{service}}")]
    };
    let good = |name: fn(&str) -> String| vec![(format!("1 - {}", bad(name, "3d")), "{{service}}")];
    let number =
        |title, description, queries| panel(title, description, "percentunit", queries).shaped(Shape::Number);
    let per_second =
        |metric: String, by: &str| format!("sum by (service, {by}) (rate({metric}[$__rate_interval]))");
    Dashboard {
        name: "service",
        title: "Services",
        description: "Whether services keep what they promise: answers, soon first tokens, steady streams.",
        variables: vec![variable],
        rows: vec![
            Row {
                title: "Over three days",
                panels: vec![
                    number("Answered", "Share of requests that did not end with 5xx.", good(objectives::errors)),
                    number(
                        "First token in time",
                        "Share of requests whose first token came within the objective.",
                        good(objectives::first_token),
                    ),
                    number(
                        "Tokens in time",
                        "Share of tokens that came within the objective after the one before.",
                        good(objectives::between_tokens),
                    ),
                ],
            },
            Row {
                title: "What burns the budgets",
                panels: vec![
                    panel("Failed", "Share of requests that ended with 5xx.", "percentunit", share(objectives::errors)),
                    panel(
                        "Late first tokens",
                        "Share of requests whose first token came later than the objective.",
                        "percentunit",
                        share(objectives::first_token),
                    ),
                    panel(
                        "Late tokens",
                        "Share of tokens that came later than the objective after the one before.",
                        "percentunit",
                        share(objectives::between_tokens),
                    ),
                ],
            },
            Row {
                title: "Requests",
                panels: vec![
                    panel(
                        "Requests by status",
                        "Requests that have ended; 499: the client left.",
                        "reqps",
                        vec![(per_second(format!("{REQUESTS}{{{OF}}}"), "status"), "{{service}} {{status}}")],
                    )
                    .shaped(Shape::Stacked),
                    panel(
                        "First byte",
                        "Seconds until the first byte of an answer, as clients see it: waiting for a replica included. Of a stream that is its first token.",
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
                        "Tokens",
                        "Tokens by kind: of prompts, of prompts and cached, of answers.",
                        "short",
                        vec![(per_second(format!("{KEY_TOKENS}{{{OF}}}"), "kind"), "{{service}} {{kind}}")],
                    ),
                    panel(
                        "Not let in",
                        "Requests of all services that a gateway refused: keys, limits, names that it does not know.",
                        "reqps",
                        vec![(format!("sum by (reason) (rate({REFUSED}[$__rate_interval]))"), "{{reason}}")],
                    )
                    .shaped(Shape::Stacked),
                    panel(
                        "Phase",
                        "How the operator finds the service.",
                        "short",
                        vec![(format!("max by (service, phase) ({SERVICE_PHASE}{{{OF}}})"), "{{service}} {{phase}}")],
                    )
                    .shaped(Shape::Timeline),
                ],
            },
        ],
    }
}
