//! `docs/reference/scaling-metrics.md`, written from the table.

use std::fmt::Write;

use crate::metric::{Metric, POD, SERVICE};

/// The page.
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Metrics for scaling\n\nThis page is generated from the metrics API's table; a test fails when it is stale. The guide autoscaling.md tells how they are used.\n\n\
         ## Of pods\n\n`custom.metrics.k8s.io/v1beta2`, resource `pods`; straight from the pod's engine or its node's agent, never older than five seconds. \
         A pod that does not answer has no value.\n\n",
    );
    table(&mut page, POD);
    page.push_str(
        "\n## Of services\n\n`custom.metrics.k8s.io/v1beta2`, resource `llmservices.wharf.dev`; `external.metrics.k8s.io/v1beta1`, as `wharf_` and the name, with the label \
         `service`; and KEDA's external scaler. From the gateways' demand streams, so they are there while a service has no pod.\n\n",
    );
    table(&mut page, SERVICE);
    page
}

fn table<T>(page: &mut String, metrics: &[Metric<T>]) {
    page.push_str("| name | meaning |\n|---|---|\n");
    for Metric { name, help, .. } in metrics {
        let _ = writeln!(page, "| `{name}` | {help}. |");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/scaling-metrics.md");
        expect_test::expect_file![path].assert_eq(&reference_page());
    }
}
