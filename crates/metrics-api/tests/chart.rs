//! What the chart gives the metrics API is what it needs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use serde_json::Value;
use wharf_metrics_api::{Api, cluster_role, role_at_home};

const NAME: &str = "wharf-metrics-api";

#[test]
fn the_chart_has_the_rules_of_the_metrics_api() {
    let role = cluster_role(NAME, &Api::ALL);
    let text = serde_saphyr::to_string(&role["rules"]).unwrap();
    let head = "# The metrics API's rights, from crates/metrics-api/src/rbac.rs: UPDATE_EXPECT=1 cargo test -p wharf-metrics-api --test chart\n";
    expect_test::expect_file!["../../../deploy/helm/wharf/files/metrics-api-rules.yaml"]
        .assert_eq(&format!("{head}{text}"));
}

#[test]
fn an_installation_grants_all_of_them_and_no_more() {
    let rendering = include_str!("../../../deploy/helm/rendered/production.yaml");
    let objects: Vec<Value> =
        rendering.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect();
    let rules = |kind: &str, namespace: Option<&str>| {
        let is_it = |object: &&Value| {
            let metadata = &object["metadata"];
            object["kind"] == kind && metadata["name"] == NAME && metadata["namespace"].as_str() == namespace
        };
        objects.iter().find(is_it).unwrap()["rules"].clone()
    };
    assert_eq!(rules("ClusterRole", None), cluster_role(NAME, &Api::ALL)["rules"]);
    let home = "wharf-system";
    assert_eq!(rules("Role", Some(home)), role_at_home(NAME, home, NAME)["rules"]);
}
