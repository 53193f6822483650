//! One table of metrics feeds registration, the reference page, and the rules and dashboards made from it.
//!
//! The `vllm:` names are vLLM's, with its meaning and labels, so that routers and dashboards made for vLLM work
//! with Wharf. The table decides names; a metric that is not in it cannot be recorded.

mod registry;
mod table;

/// Metrics could not be written as text.
pub use prometheus::Error as EncodeError;
pub use registry::Metrics;
pub use table::{Kind, Metric, dcgm, gateway, metrics_api, node, operator, server, serving};

use std::fmt::Write;

/// `docs/reference/metrics.md`.
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Metrics\n\nThis page is generated from the metric table; a test fails when it is stale.\n\n\
         ## Model server\n\nServed at `/metrics` on its metrics port and on its API port. Names that begin \
         with `vllm:` have vLLM's meaning, so that routers and dashboards made for vLLM work unchanged.\n\n",
    );
    table_of(&mut page, server::ALL);
    page.push_str("\n## Gateway\n\nServed at `/metrics` on its metrics port.\n\n");
    table_of(&mut page, gateway::ALL);
    page.push_str("\n## Operator\n\nServed at `/metrics` on its metrics port.\n\n");
    table_of(&mut page, operator::ALL);
    page.push_str("\n## Metrics API\n\nServed at `/metrics` on its metrics port.\n\n");
    table_of(&mut page, metrics_api::ALL);
    page.push_str(
        "\n## Node agent\n\nServed at `/metrics` on its port. Names that begin with `DCGM_` have dcgm-exporter's meaning and labels, so that \
         dashboards made for it work unchanged. A label without a value is left out; `Hostname` may be called `hostname`.\n\n",
    );
    table_of(&mut page, node::ALL);
    page.push('\n');
    table_of(&mut page, dcgm::ALL);
    page.push_str("\nOf models that are served on the node, where `exporter.serving` is on:\n\n");
    table_of(&mut page, serving::ALL);
    page.push_str("\n## Histogram buckets\n\n");
    for metric in server::ALL.iter().chain(gateway::ALL).chain(operator::ALL) {
        if let Kind::Histogram(buckets) = metric.kind {
            let buckets: Vec<String> = buckets.iter().map(|bucket| bucket.to_string()).collect();
            let _ = writeln!(page, "- `{}`: {}", metric.name, buckets.join(", "));
        }
    }
    page
}

fn table_of(page: &mut String, table: &[&Metric]) {
    page.push_str("| name | type | labels | meaning |\n|---|---|---|---|\n");
    for metric in table {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(page, "| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/metrics.md");
        expect_test::expect_file![path].assert_eq(&reference_page());
    }
}
