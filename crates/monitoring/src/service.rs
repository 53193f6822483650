//! The alerts that a service has for itself, where it has said what it promises.
//!
//! They have the names of those that hold for all services, and so their runbooks; the label `llmservice` tells them apart. Without gateway
//! and operator they ask the service's own pods alone.

use wharf_telemetry::metrics::Metric;
use wharf_telemetry::metrics::gateway::REQUESTS;
use wharf_telemetry::metrics::operator::SERVICE_REPLICAS;

use crate::engines::Names;
use crate::expr::{bound, le};
use crate::objective::{Budget, Objective};
use crate::rule::{Alert, Group, Rule, Severity};

/// What a service promises, and by which names its engine counts.
#[derive(Clone, Copy, Debug)]
pub struct Promise<'a> {
    /// The service's name.
    pub name: &'a str,
    /// Its namespace; the one that Prometheus is asked for anyway if not given.
    pub namespace: Option<&'a str>,
    /// The Service of its pods.
    pub pods: &'a str,
    /// Whether it may have no replica at all; the operator says then when it should have.
    pub sleeps: bool,
    /// Whether clients reach it through the gateway, which then counts what they see; otherwise its engine does.
    pub behind_gateway: bool,
    /// Its engine's names.
    pub names: Names,
    /// Share of requests that may fail.
    pub errors: f64,
    /// Seconds to the first token that 95% of requests keep to, and how the user wrote them.
    pub first_token: (f64, &'a str),
    /// Seconds between tokens that 95% of them keep to.
    pub between_tokens: (f64, &'a str),
}

/// Share of requests and tokens that may be slower than promised: limits are those of 95%.
const SLOW: f64 = 0.05;
/// Fewer requests in the longer window say nothing.
const AT_LEAST: &str = "20";

/// The service's rules.
pub fn groups(promise: &Promise<'_>) -> Vec<Group> {
    let Promise { name, namespace, pods, sleeps, behind_gateway, names, errors, first_token, between_tokens } =
        *promise;
    let mut of = format!("service=\"{pods}\"");
    if let Some(namespace) = namespace {
        of.push_str(&format!(",namespace=\"{namespace}\""));
    }
    let everywhere = match namespace {
        Some(namespace) => format!("service=\"{namespace}/{name}\""),
        None => format!("service=~\".*/{name}\""),
    };
    let labels = || {
        let namespace = namespace.map(|namespace| ("namespace", namespace.to_owned()));
        [Some(("llmservice", name.to_owned())), namespace].into_iter().flatten().collect()
    };
    let mut down = format!("absent(up{{{of}}} == 1)");
    if sleeps {
        down = format!("{down} unless on () {SERVICE_REPLICAS}{{{everywhere},state=\"wanted\"}} == 0");
    }
    let mut alerts = vec![Alert {
        name: "WharfServiceDown",
        expr: down,
        wait: "5m",
        severity: Severity::Critical,
        labels: labels(),
        summary: format!("No pod of {name} answers"),
        description:
            "Prometheus has read metrics of no pod for five minutes. The service's condition Ready says why."
                .to_owned(),
    }];
    let answers = match behind_gateway {
        true => Some((&REQUESTS, "status=~\"5..\"", &everywhere)),
        false => names.answers.map(|(answers, failed)| (answers, failed, &of)),
    };
    if let Some((answers, failed, of)) = answers {
        let bad = |window: &str| {
            format!(
                "sum(rate({answers}{{{of},{failed}}}[{window}])) / sum(rate({answers}{{{of}}}[{window}]))"
            )
        };
        let count = |window: &str| format!("sum(increase({answers}{{{of}}}[{window}]))");
        let objective = Objective {
            alert: "WharfErrorBudgetBurn",
            bad: &bad,
            count: &count,
            at_least: AT_LEAST,
            on: "",
            budget: Budget::Known(errors),
        };
        let summary = format!("{name} fails too many requests");
        let description =
            "So many requests are answered with 5xx that what may fail in 30 days will not last.";
        alerts.extend(both(&objective, &labels, &summary, description));
    }
    let slow = [
        (
            "WharfSlowFirstToken",
            names.first_token,
            first_token,
            "takes too long to the first token",
            "requests wait for their first token",
        ),
        (
            "WharfSlowTokens",
            names.between_tokens,
            between_tokens,
            "streams too slowly",
            "tokens come after the one before",
        ),
    ];
    for (alert, histogram, (seconds, written), what, how) in slow {
        let Some((histogram, bound)) = histogram.and_then(|histogram| counted(histogram, seconds)) else {
            continue;
        };
        let bound = bound.to_string();
        let bad = |window: &str| {
            let soon = format!("sum(rate({histogram}_bucket{{{of},{}}}[{window}]))", le(&bound));
            format!("1 - {soon} / sum(rate({histogram}_count{{{of}}}[{window}]))")
        };
        let count = |window: &str| format!("sum(increase({histogram}_count{{{of}}}[{window}]))");
        let objective = Objective {
            alert,
            bad: &bad,
            count: &count,
            at_least: AT_LEAST,
            on: "",
            budget: Budget::Known(SLOW),
        };
        let summary = format!("{name} {what}");
        let description = format!(
            "So many {how} later than {written} (counted at {bound} s) that the twentieth that may in 30 days will not last."
        );
        alerts.extend(both(&objective, &labels, &summary, &description));
    }
    if let Some(waiting) = names.waiting {
        alerts.push(Alert {
            name: "WharfRequestsWait",
            expr: format!("min_over_time(sum({waiting}{{{of}}})[10m:1m]) > 0"),
            wait: "5m",
            severity: Severity::Warning,
            labels: labels(),
            summary: format!("Requests to {name} always wait"),
            description: "No moment of the last ten minutes was without a queue: replicas are too few, or the most that scaling allows."
                .to_owned(),
        });
    }
    let rules = alerts.into_iter().map(Rule::Alert).collect();
    vec![Group { name: format!("llmservice-{name}"), rules }]
}

fn both(
    objective: &Objective<'_>,
    labels: &dyn Fn() -> Vec<(&'static str, String)>,
    summary: &str,
    description: &str,
) -> [Alert; 2] {
    [Severity::Critical, Severity::Warning].map(|severity| {
        objective.alert(severity, objective.burns(severity), labels(), summary.to_owned(), description)
    })
}

/// The histogram with the bound at which a limit is counted, where it has one so high.
fn counted(histogram: &'static Metric, seconds: f64) -> Option<(&'static Metric, f64)> {
    Some((histogram, bound(histogram, seconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engines;

    fn promise() -> Promise<'static> {
        Promise {
            name: "assistant",
            namespace: Some("demo"),
            pods: "assistant-pods",
            sleeps: false,
            behind_gateway: false,
            names: engines::WHARF,
            errors: 0.01,
            first_token: (2.0, "2s"),
            between_tokens: (0.2, "200ms"),
        }
    }

    /// Names and expressions of its alerts.
    fn alerts(promise: &Promise<'_>) -> Vec<(&'static str, String)> {
        let groups = groups(promise);
        let rules = groups.into_iter().flat_map(|group| group.rules);
        rules
            .filter_map(|rule| match rule {
                Rule::Alert(alert) => Some((alert.name, alert.expr)),
                Rule::Record { .. } => None,
            })
            .collect()
    }

    fn names(promise: &Promise<'_>) -> Vec<&'static str> {
        let mut names: Vec<&str> = alerts(promise).into_iter().map(|(name, _)| name).collect();
        names.dedup();
        names
    }

    #[test]
    fn an_engine_has_the_alerts_that_its_numbers_allow() {
        let of = |engine| names(&Promise { names: engine, ..promise() });
        let all = [
            "WharfServiceDown",
            "WharfErrorBudgetBurn",
            "WharfSlowFirstToken",
            "WharfSlowTokens",
            "WharfRequestsWait",
        ];
        assert_eq!(of(engines::WHARF), all);
        assert_eq!(of(engines::VLLM), all);
        assert_eq!(of(engines::SGLANG), [all[0], all[2], all[3], all[4]]);
        assert_eq!(of(engines::LLAMA_CPP), [all[0], all[4]]);
        assert_eq!(of(engines::CUSTOM), [all[0]]);
    }

    #[test]
    fn failures_are_those_that_clients_see_where_somebody_counts_them() {
        let behind = Promise { behind_gateway: true, names: engines::CUSTOM, ..promise() };
        let (name, expr) = &alerts(&behind)[1];
        assert_eq!(*name, "WharfErrorBudgetBurn");
        assert!(
            expr.contains("wharf_gateway_requests_total{service=\"demo/assistant\",status=~\"5..\"}[1h]"),
            "{expr}"
        );
        let anywhere = Promise { namespace: None, ..behind };
        assert!(alerts(&anywhere)[1].1.contains("{service=~\".*/assistant\","));
    }

    #[test]
    fn a_limit_beyond_all_bounds_is_no_alert() {
        let patient = Promise { first_token: (3000.0, "50m"), ..promise() };
        assert!(!names(&patient).contains(&"WharfSlowFirstToken"));
        let strict = Promise { names: engines::SGLANG, first_token: (2.5, "2.5s"), ..promise() };
        assert!(
            alerts(&strict)[1].1.contains("le=~\"4([.]0)?\""),
            "SGLang has no bound between 2 and 4 seconds"
        );
    }

    #[test]
    fn only_a_service_that_may_sleep_asks_whether_it_does() {
        let asks = |sleeps| {
            alerts(&Promise { sleeps, ..promise() })[0].1.contains("wharf_operator_service_replicas")
        };
        assert!(asks(true) && !asks(false));
    }
}
