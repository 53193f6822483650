//! How many replicas there are and should be, and how releases go.

use wharf_telemetry::metrics::gateway::{IN_FLIGHT, QUEUED, REQUESTS};
use wharf_telemetry::metrics::operator::{
    COLD_START, EVENTS, FAILURES, GATE_REFUSED, GATEWAYS, LEADER, LOOK_SECONDS, LOOKS, MODEL_STATE, OBJECTS,
    RELEASE_PATIENCE, RELEASE_PHASE, RELEASE_SINCE, SCALED, SERVICE_BOUNDS, SERVICE_REPLICAS,
    SERVICE_TRAFFIC, WATCH_FAILURES,
};

use super::{Dashboard, Row, Shape, Variable, panel};

const OF: &str = r#"service=~"$service""#;

pub(super) fn dashboard() -> Dashboard {
    let variable = Variable {
        name: "service",
        label: "Service",
        of: SERVICE_REPLICAS.name.to_owned(),
        value: "service",
    };
    let most = |metric: &str, by: &str| format!("max by (service, {by}) ({metric}{{{OF}}})");
    let rate = |what: String, by: &str| format!("sum by ({by}) (rate({what}[$__rate_interval]))");
    let grown = |what: String, by: &str| format!("sum by ({by}) (increase({what}[1h]))");
    let one = |metric: &str| format!("max by (service) ({metric}{{{OF}}})");
    let phase =
        format!(r#"{RELEASE_PHASE}{{{OF},phase=~"Draining|Warming|Shifting|Verifying|RollingBack"}}"#);
    Dashboard {
        name: "scaling",
        title: "Scaling and releases",
        description: "How many replicas there are and should be, how releases go, and how the operator does.",
        variables: vec![variable],
        rows: vec![
            Row {
                title: "Replicas",
                panels: vec![
                    panel("Replicas", "Wanted, ready and starting.", "short", vec![(most(SERVICE_REPLICAS.name, "state"), "{{service}} {{state}}")]),
                    panel("Bounds", "Fewest and most replicas that scaling allows.", "short", vec![(most(SERVICE_BOUNDS.name, "bound"), "{{service}} {{bound}}")]),
                    panel("Demand", "Requests at endpoints and requests that wait for one.", "short", vec![
                        (format!("sum by (service) ({IN_FLIGHT}{{{OF}}})"), "at endpoints {{service}}"),
                        (format!("sum by (service) ({QUEUED}{{{OF}}})"), "waiting {{service}}"),
                    ]),
                    panel("Changes", "Decisions of Wharf's autoscaler in the last hour: up, down, wake, sleep.", "short", vec![(grown(SCALED.name.to_owned(), "direction"), "{{direction}}")]),
                    panel("Last cold start", "Seconds until a replica had a node, its model's files, the model, and its first answers.", "s", vec![(most(COLD_START.name, "part"), "{{service}} {{part}}")]).shaped(Shape::Stacked),
                    panel("Gateways that the operator hears", "Without any it sees no demand.", "short", vec![(format!("max({GATEWAYS})"), "gateways")]),
                ],
            },
            Row {
                title: "Releases",
                panels: vec![
                    panel("Phase of the release", "Which phase held when.", "short", vec![(most(RELEASE_PHASE.name, "phase"), "{{service}} {{phase}}")]).shaped(Shape::Timeline).wide(16),
                    panel("Time in the phase", "As a share of what the phase may take; above 1 it is stuck.", "percentunit", vec![(
                        format!(
                            "(time() - {}) / {} and on (service) max by (service) ({phase}) == 1",
                            one(RELEASE_SINCE.name),
                            one(RELEASE_PATIENCE.name)
                        ),
                        "{{service}}",
                    )]),
                    panel("Shares of traffic", "As they should be.", "percentunit", vec![(most(SERVICE_TRAFFIC.name, "colour"), "{{service}} {{colour}}")]).shaped(Shape::Stacked),
                    panel("Requests by version", "As they are.", "reqps", vec![(rate(format!("{REQUESTS}{{{OF}}}"), "service, colour"), "{{service}} {{colour}}")]).shaped(Shape::Stacked),
                    panel("Events", "Events in the last hour, by reason: Promoted, RolledBack, Scaled and others.", "short", vec![(grown(EVENTS.name.to_owned(), "reason"), "{{reason}}")]),
                ],
            },
            Row {
                title: "Models",
                panels: vec![
                    panel("State of Models", "Which state held when.", "short", vec![(format!("max by (model, state) ({MODEL_STATE})"), "{{model}} {{state}}")]).shaped(Shape::Timeline).wide(16),
                    panel("Refused by a gate", "1 where a quality gate has refused what was made.", "short", vec![(format!("max by (kind, name) ({GATE_REFUSED})"), "{{kind}} {{name}}")]),
                ],
            },
            Row {
                title: "Operator",
                panels: vec![
                    panel("Looks", "Looks at objects, by how they went.", "ops", vec![(rate(LOOKS.name.to_owned(), "kind, result"), "{{kind}} {{result}}")]),
                    panel("A look takes", "Seconds that 95% of looks do not exceed.", "s", vec![(
                        format!("histogram_quantile(0.95, sum by (le, kind) (rate({LOOK_SECONDS}_bucket[$__rate_interval])))"),
                        "{{kind}}",
                    )]),
                    panel("Failures", "Looks that failed in the last hour by reason, and watches that broke off.", "short", vec![
                        (grown(FAILURES.name.to_owned(), "kind, reason"), "{{kind}} {{reason}}"),
                        (grown(WATCH_FAILURES.name.to_owned(), "kind"), "watch {{kind}}"),
                    ]),
                    panel("Objects", "Services and Models by whether they are ready.", "short", vec![(format!("max by (kind, ready) ({OBJECTS})"), "{{kind}} ready: {{ready}}")]),
                    panel("Who leads", "1 for the operator that works.", "short", vec![(format!("max by (pod) ({LEADER})"), "{{pod}}")]),
                ],
            },
        ],
    }
}
