//! The rules of an installation: what it promises for every service, and everything else that somebody should know of.
//!
//! Groups are named by whose metrics they need, so that whoever has no gateway or no GPU nodes leaves a group out. Numbers that differ between
//! installations are in [`Tuning`].

mod gateway;
mod nodes;
pub(crate) mod objectives;
mod operator;
mod releases;
mod serving;

use crate::rule::{Alert, Group, Rule, Severity};

/// Numbers that an installation may want otherwise, as they stand in expressions.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuning {
    /// Share of requests that may fail.
    pub errors: String,
    /// Seconds to the first token, a bound of its histogram.
    pub first_token_seconds: String,
    /// Share of requests that may take longer.
    pub first_token: String,
    /// Seconds between tokens, a bound of their histogram.
    pub between_tokens_seconds: String,
    /// Share of tokens that may take longer.
    pub between_tokens: String,
    /// Requests in the longer window of an alert, below which it says nothing.
    pub min_requests: String,
    /// Where runbooks are.
    pub runbooks: String,
}

impl Default for Tuning {
    fn default() -> Tuning {
        let text = str::to_owned;
        Tuning {
            errors: text("0.01"),
            first_token_seconds: text("2.5"),
            first_token: text("0.05"),
            between_tokens_seconds: text("0.2"),
            between_tokens: text("0.05"),
            min_requests: text("20"),
            runbooks: text(crate::RUNBOOKS),
        }
    }
}

impl Tuning {
    /// Marks that the chart puts its values in place of.
    pub fn marks() -> Tuning {
        let mark = |name: &str| format!("@{name}@");
        Tuning {
            errors: mark("errors"),
            first_token_seconds: mark("firstTokenSeconds"),
            first_token: mark("firstToken"),
            between_tokens_seconds: mark("betweenTokensSeconds"),
            between_tokens: mark("betweenTokens"),
            min_requests: mark("minRequests"),
            runbooks: mark("runbooks"),
        }
    }
}

/// Every group.
pub fn groups(tuning: &Tuning) -> Vec<Group> {
    let group = |name: &str, rules| Group { name: name.to_owned(), rules };
    let alerts = |alerts: Vec<Alert>| alerts.into_iter().map(Rule::Alert).collect();
    vec![
        group("wharf-objectives", objectives::rules(tuning)),
        group("wharf-serving", alerts(serving::alerts())),
        group("wharf-releases", alerts(releases::alerts())),
        group("wharf-operator", alerts(operator::alerts())),
        group("wharf-gateway", alerts(gateway::alerts())),
        group("wharf-nodes", alerts(nodes::alerts())),
    ]
}

/// An alert without labels of its own.
fn alert(
    name: &'static str,
    severity: Severity,
    wait: &'static str,
    expr: String,
    summary: &str,
    description: &str,
) -> Alert {
    let (summary, description) = (summary.to_owned(), description.to_owned());
    Alert { name, expr, wait, severity, labels: Vec::new(), summary, description }
}
