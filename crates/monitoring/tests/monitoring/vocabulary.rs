//! Reads expressions of Prometheus and says which metrics, labels and bounds in them do not exist.
//!
//! Labels are followed through an expression, so that `sum by (pod) (sum by (node) (x))` is found too, and two sides of an operator
//! whose labels can never be equal.

use std::collections::{BTreeMap, BTreeSet};

use promql_parser::label::{MatchOp, Matcher, Matchers};
use promql_parser::parser::{
    self, BinaryExpr, Call, Expr, LabelModifier, VectorMatchCardinality, VectorSelector,
};
use wharf_monitoring::engines::foreign;
use wharf_telemetry::metrics::{Kind, Metric, dcgm, gateway, node, operator, server, serving};

type Labels = BTreeSet<String>;

/// What Prometheus adds to everything that it reads from a pod through a monitor of the chart or of a service.
const TARGET: [&str; 7] = ["namespace", "pod", "container", "job", "instance", "endpoint", "service"];

/// Everything that may be asked for.
pub(crate) struct Vocabulary(BTreeMap<String, Series>);

struct Series {
    labels: Labels,
    bounds: &'static [f64],
}

impl Vocabulary {
    /// The metrics of all roles and of engines of others, with the labels that monitors give them.
    pub(crate) fn new() -> Vocabulary {
        let mut known = Vocabulary(BTreeMap::new());
        let of_service = [TARGET.as_slice(), &["wharf_dev_service", "wharf_dev_colour"]].concat();
        let of_node = [&TARGET[..6], &["node"]].concat();
        known.add(server::ALL, &of_service, false);
        known.add(foreign::ALL, &of_service, false);
        known.add(gateway::ALL, &TARGET, true);
        known.add(operator::ALL, &TARGET, true);
        known.add(node::ALL, &of_node, false);
        known.add(dcgm::ALL, &of_node, false);
        known.add(serving::ALL, &of_node, false);
        // Prometheus' own.
        known.insert("up", of_service.iter().map(|label| (*label).to_owned()).collect(), &[]);
        known
    }

    /// `honours`: a metric keeps labels of its own that the target has too; otherwise they are renamed.
    fn add(&mut self, table: &[&'static Metric], target: &[&str], honours: bool) {
        for metric in table {
            let own = metric.labels.iter().map(|label| match !honours && target.contains(label) {
                true => format!("exported_{label}"),
                false => (*label).to_owned(),
            });
            let labels: Labels = own.chain(target.iter().map(|label| (*label).to_owned())).collect();
            match metric.kind {
                Kind::Counter | Kind::Gauge => self.insert(metric.name, labels, &[]),
                Kind::Histogram(bounds) => {
                    self.insert(&format!("{metric}_sum"), labels.clone(), &[]);
                    self.insert(&format!("{metric}_count"), labels.clone(), &[]);
                    let labels = labels.into_iter().chain(["le".to_owned()]).collect();
                    self.insert(&format!("{metric}_bucket"), labels, bounds);
                }
            }
        }
    }

    fn insert(&mut self, name: &str, labels: Labels, bounds: &'static [f64]) {
        // `wharf_build_info` is there of every role: what all of them have can be relied on.
        let labels = match self.0.get(name) {
            Some(known) => known.labels.intersection(&labels).cloned().collect(),
            None => labels,
        };
        self.0.insert(name.to_owned(), Series { labels, bounds });
    }

    /// From now on a rule keeps an expression's result under a name.
    pub(crate) fn record(&mut self, name: &str, labels: Labels) {
        self.insert(name, labels, &[]);
    }

    /// The labels of an expression's result.
    ///
    /// # Errors
    /// Everything in it that does not exist, or that cannot be read.
    pub(crate) fn read(&self, text: &str) -> Result<Labels, Vec<String>> {
        // Grafana puts in a span of time, and values where a label is matched.
        let text = text.replace("$__rate_interval", "5m");
        let expr = parser::parse(&text).map_err(|error| vec![format!("{text}: {error}")])?;
        let mut wrong = Vec::new();
        let labels = self.labels(&expr, &mut wrong).unwrap_or_default();
        if wrong.is_empty() { Ok(labels) } else { Err(wrong) }
    }

    /// Nothing for a number.
    fn labels(&self, expr: &Expr, wrong: &mut Vec<String>) -> Option<Labels> {
        match expr {
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) => None,
            Expr::Paren(inside) => self.labels(&inside.expr, wrong),
            Expr::Unary(of) => self.labels(&of.expr, wrong),
            Expr::Subquery(of) => self.labels(&of.expr, wrong),
            Expr::VectorSelector(selector) => Some(self.select(selector, wrong)),
            Expr::MatrixSelector(selector) => Some(self.select(&selector.vs, wrong)),
            Expr::Call(call) => self.call(call, wrong),
            Expr::Binary(binary) => self.binary(binary, wrong),
            Expr::Aggregate(aggregate) => {
                let inside = self.labels(&aggregate.expr, wrong).unwrap_or_default();
                let keeps = ["topk", "bottomk"].contains(&aggregate.op.to_string().as_str());
                Some(match &aggregate.modifier {
                    _ if keeps => inside,
                    None => Labels::new(),
                    Some(LabelModifier::Include(by)) => all_there(&by.labels, &inside, expr, wrong),
                    Some(LabelModifier::Exclude(without)) => {
                        let gone = all_there(&without.labels, &inside, expr, wrong);
                        inside.difference(&gone).cloned().collect()
                    }
                })
            }
            Expr::Extension(_) => {
                wrong.push(format!("{expr}: is no expression of Prometheus"));
                None
            }
        }
    }

    fn select(&self, selector: &VectorSelector, wrong: &mut Vec<String>) -> Labels {
        let name = selector.name.as_deref().unwrap_or("");
        let Some(series) = self.0.get(name) else {
            wrong.push(format!("{selector}: there is no metric {name:?}"));
            return Labels::new();
        };
        for matcher in matchers(&selector.matchers) {
            if !series.labels.contains(&matcher.name) {
                wrong.push(format!("{selector}: has no label {:?}", matcher.name));
            }
            if matcher.name == "le" {
                let bound = matcher.value.trim_end_matches("([.]0)?").parse::<f64>();
                if !bound.is_ok_and(|bound| series.bounds.contains(&bound)) {
                    wrong.push(format!("{selector}: has no bound {:?}", matcher.value));
                }
            }
        }
        series.labels.clone()
    }

    fn call(&self, call: &Call, wrong: &mut Vec<String>) -> Option<Labels> {
        let arguments = &call.args.args;
        let of: Vec<Labels> = arguments.iter().filter_map(|argument| self.labels(argument, wrong)).collect();
        let inside = of.first().cloned();
        let texts: Vec<&str> = arguments
            .iter()
            .filter_map(|argument| match &**argument {
                Expr::StringLiteral(text) => Some(text.val.as_str()),
                _ => None,
            })
            .collect();
        let mut needs = |label: &str, inside: &Labels| {
            if !inside.contains(label) {
                wrong.push(format!("{call}: has no label {label:?}"));
            }
        };
        match call.func.name {
            "time" | "scalar" | "vector" => None,
            "absent" => match arguments.first().map(|argument| &**argument) {
                Some(Expr::VectorSelector(selector)) => Some(equal(&selector.matchers)),
                _ => Some(Labels::new()),
            },
            "histogram_quantile" => {
                let mut inside = inside.unwrap_or_default();
                needs("le", &inside);
                inside.remove("le");
                Some(inside)
            }
            "label_replace" | "label_join" => {
                let mut inside = inside.unwrap_or_default();
                let [to, _, sources @ ..] = texts.as_slice() else { return Some(inside) };
                let sources = if call.func.name == "label_replace" { &sources[..1] } else { sources };
                sources.iter().for_each(|source| needs(source, &inside));
                inside.insert((*to).to_owned());
                Some(inside)
            }
            _ => inside,
        }
    }

    fn binary(&self, binary: &BinaryExpr, wrong: &mut Vec<String>) -> Option<Labels> {
        let (left, right) = (self.labels(&binary.lhs, wrong), self.labels(&binary.rhs, wrong));
        let (left, right) = match (left, right) {
            (Some(left), Some(right)) => (left, right),
            (left, right) => return left.or(right),
        };
        let whole = Expr::Binary(binary.clone());
        let operator = binary.op.to_string();
        let modifier = binary.modifier.as_ref();
        let matched = match modifier.and_then(|modifier| modifier.matching.as_ref()) {
            Some(LabelModifier::Include(on)) => {
                all_there(&on.labels, &left, &whole, wrong);
                all_there(&on.labels, &right, &whole, wrong)
            }
            Some(LabelModifier::Exclude(ignored)) => {
                let rest = |side: &Labels| -> Labels {
                    side.iter().filter(|label| !ignored.labels.contains(label)).cloned().collect()
                };
                if rest(&left) != rest(&right) {
                    wrong.push(format!("{whole}: the sides have other labels: {left:?}, {right:?}"));
                }
                rest(&left)
            }
            None => {
                if operator != "or" && left != right {
                    wrong.push(format!("{whole}: the sides have other labels: {left:?}, {right:?}"));
                }
                left.clone()
            }
        };
        Some(match modifier.map(|modifier| &modifier.card) {
            _ if operator == "or" => left.intersection(&right).cloned().collect(),
            _ if operator == "and" || operator == "unless" => left,
            Some(VectorMatchCardinality::ManyToOne(more)) => {
                let more = all_there(&more.labels, &right, &whole, wrong);
                left.union(&more).cloned().collect()
            }
            Some(VectorMatchCardinality::OneToMany(more)) => {
                let more = all_there(&more.labels, &left, &whole, wrong);
                right.union(&more).cloned().collect()
            }
            _ => matched,
        })
    }
}

fn matchers(all: &Matchers) -> impl Iterator<Item = &Matcher> {
    all.matchers.iter().chain(all.or_matchers.iter().flatten())
}

/// Labels that a selector says the one value of.
fn equal(all: &Matchers) -> Labels {
    matchers(all).filter(|one| matches!(one.op, MatchOp::Equal)).map(|one| one.name.clone()).collect()
}

/// Those of `wanted` that are there.
fn all_there(wanted: &[String], there: &Labels, of: &Expr, wrong: &mut Vec<String>) -> Labels {
    for label in wanted.iter().filter(|label| !there.contains(*label)) {
        wrong.push(format!("{of}: has no label {label:?}"));
    }
    wanted.iter().filter(|label| there.contains(*label)).cloned().collect()
}

#[test]
fn what_does_not_exist_is_found() {
    let known = Vocabulary::new();
    let complaints = |text: &str| known.read(text).err().unwrap_or_default();
    let fine = [
        "sum by (service, colour) (rate(wharf_gateway_requests_total{status=~\"5..\"}[5m]))",
        "histogram_quantile(0.95, sum by (le, service) (rate(wharf_gateway_first_byte_seconds_bucket[$__rate_interval])))",
        "wharf_operator_gateways == 0 and wharf_operator_leader == 1",
        "time() - max by (service) (wharf_operator_release_since_timestamp_seconds) > 3600",
        "sum by (node) (DCGM_FI_DEV_FB_USED{exported_pod!=\"\"})",
        "rate(vllm:time_to_first_token_seconds_bucket{le=~\"1([.]0)?\"}[5m])",
    ];
    for text in fine {
        assert_eq!(complaints(text), Vec::<String>::new(), "{text}");
    }
    let cases = [
        ("wharf_gateway_request_total", "there is no metric"),
        ("wharf_gateway_request_seconds", "there is no metric"),
        ("wharf_gateway_requests_total{model=\"a\"}", "has no label \"model\""),
        ("sum by (pod) (sum by (service) (wharf_gateway_queued))", "has no label \"pod\""),
        (
            "sum by (service) (wharf_gateway_queued) / sum by (pod) (wharf_gateway_queued)",
            "the sides have other labels",
        ),
        ("wharf_gateway_queued and on (node) wharf_node_ready", "has no label \"node\""),
        (
            "histogram_quantile(0.9, sum by (service) (wharf_gateway_first_byte_seconds_bucket))",
            "has no label \"le\"",
        ),
        ("label_join(wharf_gateway_queued, \"a\", \"/\", \"nowhere\")", "has no label \"nowhere\""),
        ("wharf_gateway_first_byte_seconds_bucket{le=\"3\"}", "has no bound"),
        (
            "sum by (namespace) (wharf_http_requests_total{exported_endpoint=\"/x\",colour=\"blue\"})",
            "has no label \"colour\"",
        ),
        ("sum by (service wharf", "unclosed"),
    ];
    for (text, expected) in cases {
        let found = complaints(text);
        assert!(found.iter().any(|complaint| complaint.contains(expected)), "{text}: {found:?}");
    }
}
