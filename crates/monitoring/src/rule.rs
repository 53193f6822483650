//! What a rule of Prometheus is, and how a file of them reads.

use serde_json::{Map, Value, json};

/// Rules that are looked at one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its name, which says whose metrics it needs.
    pub name: String,
    /// The rules, in the order in which later ones use earlier ones.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// Keeps the result of an expression under a name.
    Record {
        /// The name.
        name: String,
        /// The expression.
        expr: String,
    },
    /// Calls somebody while an expression has a result.
    Alert(Alert),
}

/// When somebody is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// Its name, which is its runbook's too.
    pub name: &'static str,
    /// What must have a result.
    pub expr: String,
    /// For how long.
    pub wait: &'static str,
    /// How soon somebody has to look.
    pub severity: Severity,
    /// More labels, beside those of the result.
    pub labels: Vec<(&'static str, String)>,
    /// In one line, what is wrong.
    pub summary: String,
    /// What it means, in a sentence or two.
    pub description: String,
}

/// How soon somebody has to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Now: users notice.
    Critical,
    /// In working hours.
    Warning,
}

impl Severity {
    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
        }
    }
}

impl Alert {
    /// With the page of `runbooks` that tells what to do.
    fn json(&self, runbooks: &str) -> Value {
        let Alert { name, expr, wait, severity, labels, summary, description } = self;
        let mut all = Map::new();
        all.insert("severity".to_owned(), severity.name().into());
        all.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), value.as_str().into())));
        json!({
            "alert": name, "expr": expr, "for": wait, "labels": all,
            "annotations": {
                "summary": summary, "description": description, "runbook_url": format!("{runbooks}/{name}.md"),
            },
        })
    }
}

/// Groups as Prometheus reads them in a file, and its operator in the `spec` of a PrometheusRule.
pub fn document(groups: &[Group], runbooks: &str) -> Value {
    let rule = |rule: &Rule| match rule {
        Rule::Record { name, expr } => json!({"record": name, "expr": expr}),
        Rule::Alert(alert) => alert.json(runbooks),
    };
    let group = |Group { name, rules }: &Group| {
        let rules: Vec<Value> = rules.iter().map(rule).collect();
        json!({"name": name, "rules": rules})
    };
    json!({"groups": groups.iter().map(group).collect::<Vec<_>>()})
}
