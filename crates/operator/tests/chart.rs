//! What the chart gives the operator is what the operator says that it needs.

#[test]
fn the_chart_has_the_rules_of_the_operator() {
    let role = wharf_operator::cluster_role("wharf-operator");
    let rules = serde_saphyr::to_string(&role["rules"]).expect("JSON has a form in YAML");
    let head = "# The operator's rights, from crates/operator/src/rbac.rs: UPDATE_EXPECT=1 cargo test -p wharf-operator --test chart\n";
    expect_test::expect_file!["../../../deploy/helm/wharf/files/operator-rules.yaml"]
        .assert_eq(&format!("{head}{rules}"));
}
