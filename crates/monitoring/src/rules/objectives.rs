//! What every service promises: answers, a soon first token, and a steady stream. A service that has said limits of its own
//! (`spec.observability.alerts`) has alerts of its own too, and is left out here.

use wharf_telemetry::metrics::Metric;
use wharf_telemetry::metrics::gateway::REQUESTS;
use wharf_telemetry::metrics::operator::OWN_ALERTS;
use wharf_telemetry::metrics::server::{INTER_TOKEN_SECONDS, TTFT_SECONDS};

use super::Tuning;
use crate::SERVICE_LABEL;
use crate::expr::{by_service, le};
use crate::objective::{Budget, Objective, WINDOWS};
use crate::rule::{Rule, Severity};

/// Name under which the share of failed requests is kept for a window.
pub(crate) fn errors(window: &str) -> String {
    format!("service:wharf_errors:ratio_rate{window}")
}

/// The same of requests that waited too long for their first token.
pub(crate) fn first_token(window: &str) -> String {
    format!("service:wharf_slow_first_token:ratio_rate{window}")
}

/// The same of tokens that came too late after the one before.
pub(crate) fn between_tokens(window: &str) -> String {
    format!("service:wharf_slow_tokens:ratio_rate{window}")
}

pub(super) fn rules(tuning: &Tuning) -> Vec<Rule> {
    let mut rules = Vec::new();
    for window in WINDOWS {
        let failed = format!(r#"sum by (service) (rate({REQUESTS}{{status=~"5.."}}[{window}]))"#);
        let all = format!("sum by (service) (rate({REQUESTS}[{window}]))");
        // Where nothing has ever failed there is no counter of it.
        rules.push(Rule::Record { name: errors(window), expr: format!("({failed} or 0 * {all}) / {all}") });
    }
    let slow = |histogram: &Metric, seconds: &str, window: &str| {
        let of = format!(r#"{SERVICE_LABEL}!="""#);
        let by = format!("sum by (namespace, {SERVICE_LABEL})");
        let soon = format!("{by} (rate({histogram}_bucket{{{of},{}}}[{window}]))", le(seconds));
        let all = format!("{by} (rate({histogram}_count{{{of}}}[{window}]))");
        by_service(&format!("1 - {soon} / {all}"))
    };
    for window in WINDOWS {
        let expr = slow(&TTFT_SECONDS, &tuning.first_token_seconds, window);
        rules.push(Rule::Record { name: first_token(window), expr });
    }
    for window in WINDOWS {
        let expr = slow(&INTER_TOKEN_SECONDS, &tuning.between_tokens_seconds, window);
        rules.push(Rule::Record { name: between_tokens(window), expr });
    }

    let requests = |window: &str| format!("sum by (service) (increase({REQUESTS}[{window}]))");
    let tokens = |histogram: &Metric, window: &str| {
        let by = format!("sum by (namespace, {SERVICE_LABEL})");
        by_service(&format!(r#"{by} (increase({histogram}_count{{{SERVICE_LABEL}!=""}}[{window}]))"#))
    };
    let first = |window: &str| tokens(&TTFT_SECONDS, window);
    let between = |window: &str| tokens(&INTER_TOKEN_SECONDS, window);
    let objectives = [
        (
            Objective {
                alert: "WharfErrorBudgetBurn",
                bad: &errors,
                count: &requests,
                at_least: &tuning.min_requests,
                on: "on (service)",
                budget: Budget::Later(&tuning.errors),
            },
            "{{ $labels.service }} fails too many requests",
            "The gateway answers so many requests with 5xx that the error budget of 30 days will not last.",
        ),
        (
            Objective {
                alert: "WharfSlowFirstToken",
                bad: &first_token,
                count: &first,
                at_least: &tuning.min_requests,
                on: "on (service)",
                budget: Budget::Later(&tuning.first_token),
            },
            "{{ $labels.service }} takes too long to the first token",
            "So many requests wait longer for their first token than promised that the budget of 30 days will not last.",
        ),
        (
            Objective {
                alert: "WharfSlowTokens",
                bad: &between_tokens,
                count: &between,
                at_least: &tuning.min_requests,
                on: "on (service)",
                budget: Budget::Later(&tuning.between_tokens),
            },
            "{{ $labels.service }} streams too slowly",
            "So many tokens come later after the one before than promised that the budget of 30 days will not last.",
        ),
    ];
    for (objective, summary, description) in objectives {
        for severity in [Severity::Critical, Severity::Warning] {
            let burns = objective.burns(severity);
            let expr = format!("({burns}) unless on (service) {OWN_ALERTS} == 1");
            let alert = objective.alert(severity, expr, Vec::new(), summary.to_owned(), description);
            rules.push(Rule::Alert(alert));
        }
    }
    rules
}
