//! Metrics that are none of ours, from a Prometheus where one is named: of pods, and by labels. A query names nothing but what was asked for,
//! and always one namespace, so that nobody reads another's.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::core::{Expression, Selector};
use serde::Deserialize;

const PATIENCE: Duration = Duration::from_secs(5);
/// Over how long a counter's rate is taken: four scrapes at the usual interval of 30 s.
const RATE: &str = "2m";

/// Asks one Prometheus, over its HTTP API.
#[derive(Clone, Debug)]
pub(crate) struct Prometheus {
    client: reqwest::Client,
    url: String,
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    #[error("failed to ask Prometheus at {url}")]
    Ask { url: String, source: reqwest::Error },
    #[error("Prometheus at {url} refused the query: {why}")]
    Refused { url: String, why: String },
}

/// One series: its labels and its value.
pub(crate) type Series = (BTreeMap<String, String>, f64);

/// What `GET /api/v1/query` answers (Prometheus documentation, "HTTP API").
#[derive(Deserialize)]
struct Answered {
    #[serde(default)]
    data: Option<Data>,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    metric: BTreeMap<String, String>,
    value: (f64, String),
}

impl Prometheus {
    /// Asks the one at `url`.
    ///
    /// # Errors
    /// When no client can be made.
    pub(crate) fn new(url: &str) -> Result<Prometheus, reqwest::Error> {
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        Ok(Prometheus { client, url: url.trim_end_matches('/').to_owned() })
    }

    /// Values by pod.
    pub(crate) async fn of_pods(
        &self,
        metric: &str,
        namespace: &str,
        pods: &[String],
    ) -> Result<BTreeMap<String, f64>, QueryError> {
        let Some(query) = query_of_pods(metric, namespace, pods) else { return Ok(BTreeMap::new()) };
        let series = self.ask(&query).await?;
        Ok(series
            .into_iter()
            .filter_map(|(mut labels, value)| Some((labels.remove("pod")?, value)))
            .collect())
    }

    /// Every series of a namespace that is selected.
    pub(crate) async fn by_labels(
        &self,
        metric: &str,
        namespace: &str,
        selector: &Selector,
    ) -> Result<Vec<Series>, QueryError> {
        let Some(query) = query_by_labels(metric, namespace, selector) else { return Ok(Vec::new()) };
        self.ask(&query).await
    }

    async fn ask(&self, query: &str) -> Result<Vec<Series>, QueryError> {
        let failed = |source| QueryError::Ask { url: self.url.clone(), source };
        let request = self.client.get(format!("{}/api/v1/query", self.url)).query(&[("query", query)]);
        let answer: Answered = request.send().await.map_err(failed)?.json().await.map_err(failed)?;
        let data = answer.data.ok_or_else(|| QueryError::Refused {
            url: self.url.clone(),
            why: answer.error.unwrap_or_else(|| "it says nothing".to_owned()),
        })?;
        let value = |sample: Sample| {
            let value: f64 = sample.value.1.parse().ok()?;
            value.is_finite().then_some((sample.metric, value))
        };
        Ok(data.result.into_iter().filter_map(value).collect())
    }
}

/// None of a name that is no metric's, or of nobody.
fn query_of_pods(metric: &str, namespace: &str, pods: &[String]) -> Option<String> {
    if pods.is_empty() {
        return None;
    }
    // Dots of names would match anything.
    let any: Vec<String> = pods.iter().map(|pod| pod.replace('.', "\\\\.")).collect();
    let series = format!("{}{{namespace={},pod=~\"{}\"}}", name(metric)?, quoted(namespace), any.join("|"));
    Some(format!("sum by (pod) ({})", measured(metric, series)))
}

fn query_by_labels(metric: &str, namespace: &str, selector: &Selector) -> Option<String> {
    let mut matchers = vec![format!("namespace={}", quoted(namespace))];
    for expression in selector.clone() {
        matchers.push(matcher(&expression)?);
    }
    let series = format!("{}{{{}}}", name(metric)?, matchers.join(","));
    Some(measured(metric, series))
}

/// A counter says nothing until its rate is taken.
fn measured(metric: &str, series: String) -> String {
    if metric.ends_with("_total") { format!("rate({series}[{RATE}])") } else { series }
}

fn name(metric: &str) -> Option<&str> {
    let is_name =
        |(at, c): (usize, char)| c.is_ascii_alphabetic() || "_:".contains(c) || at > 0 && c.is_ascii_digit();
    (!metric.is_empty() && metric.char_indices().all(is_name)).then_some(metric)
}

fn matcher(expression: &Expression) -> Option<String> {
    // Kubernetes' names of labels, as Prometheus writes them.
    let label =
        |key: &str| key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect::<String>();
    let any = |values: &std::collections::BTreeSet<String>| {
        let all: Vec<String> = values.iter().map(|value| value.replace('.', "\\\\.")).collect();
        all.iter().all(|value| is_plain(value)).then(|| format!("\"{}\"", all.join("|")))
    };
    Some(match expression {
        Expression::Equal(key, value) => format!("{}={}", label(key), quoted(value)),
        Expression::NotEqual(key, value) => format!("{}!={}", label(key), quoted(value)),
        Expression::In(key, values) => format!("{}=~{}", label(key), any(values)?),
        Expression::NotIn(key, values) => format!("{}!~{}", label(key), any(values)?),
        Expression::Exists(key) => format!("{}!=\"\"", label(key)),
        Expression::DoesNotExist(key) => format!("{}=\"\"", label(key)),
    })
}

fn is_plain(value: &str) -> bool {
    value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.\\".contains(c))
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selector;

    #[test]
    fn a_query_names_one_namespace_and_the_pods_that_are_meant() {
        let pods = ["a-1".to_owned(), "b.c".to_owned()];
        let gauge = query_of_pods("vllm:num_requests_swapped", "demo", &pods).unwrap();
        assert_eq!(
            gauge,
            "sum by (pod) (vllm:num_requests_swapped{namespace=\"demo\",pod=~\"a-1|b\\\\.c\"})"
        );
        let counter = query_of_pods("x_total", "demo", &pods[..1]).unwrap();
        assert_eq!(counter, "sum by (pod) (rate(x_total{namespace=\"demo\",pod=~\"a-1\"}[2m]))");
        assert_eq!(query_of_pods("x", "demo", &[]), None);
    }

    #[test]
    fn nothing_that_is_asked_for_becomes_part_of_the_language() {
        for metric in ["", "a b", "up} or vector(1", "1a", "sum(up)"] {
            assert_eq!(query_of_pods(metric, "demo", &["a".to_owned()]), None, "{metric}");
        }
        let quoted = query_by_labels("up", "demo\"} or up{x=\"", &selector::parse("").unwrap()).unwrap();
        assert_eq!(quoted, "up{namespace=\"demo\\\"} or up{x=\\\"\"}");
    }

    #[test]
    fn selectors_become_matchers() {
        let selector = selector::parse("wharf.dev/service=a,tier in (x,y.z),!old,zone!=b").unwrap();
        let query = query_by_labels("q", "demo", &selector).unwrap();
        assert_eq!(
            query,
            "q{namespace=\"demo\",wharf_dev_service=\"a\",tier=~\"x|y\\\\.z\",old=\"\",zone!=\"b\"}"
        );
        assert_eq!(query_by_labels("q", "demo", &selector::parse("a in (.*|b)").unwrap()), None);
    }
}
