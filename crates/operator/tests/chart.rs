//! What the chart gives the operator is what the operator says that it needs: all of it, and Leases in its own namespace alone.

use serde_json::Value;

fn rules(role: &Value) -> Vec<Value> {
    role["rules"].as_array().expect("a role has rules").clone()
}

/// Rules of a role in a rendering of the chart.
fn granted(rendering: &str, kind: &str, name: &str, namespace: Option<&str>) -> Vec<Value> {
    let objects =
        rendering.split("\n---\n").map(|text| serde_saphyr::from_str::<Value>(text).expect("it is YAML"));
    let is_it = |object: &Value| {
        object["kind"] == kind
            && object["metadata"]["name"] == name
            && object["metadata"]["namespace"].as_str() == namespace
    };
    rules(&objects.into_iter().find(is_it).expect("the role is there"))
}

#[test]
fn the_chart_has_the_rules_of_the_operator() {
    let role = wharf_operator::cluster_role("wharf-operator", true);
    let text = serde_saphyr::to_string(&role["rules"]).expect("JSON has a form in YAML");
    let head = "# The operator's rights, from crates/operator/src/rbac.rs: UPDATE_EXPECT=1 cargo test -p wharf-operator --test chart\n";
    expect_test::expect_file!["../../../deploy/helm/wharf/files/operator-rules.yaml"]
        .assert_eq(&format!("{head}{text}"));
}

#[test]
fn an_installation_grants_all_of_them_and_leases_at_home_alone() {
    let needed = rules(&wharf_operator::cluster_role("wharf-operator", false));
    let is_lease = |rule: &Value| rule["resources"] == serde_json::json!(["leases"]);
    let (leases, others): (Vec<Value>, Vec<Value>) = needed.into_iter().partition(is_lease);
    let home = Some("wharf-system");
    let everywhere = include_str!("../../../deploy/install.yaml");
    assert_eq!(granted(everywhere, "ClusterRole", "wharf-operator", None), others);
    assert_eq!(granted(everywhere, "Role", "wharf-operator-home", home), leases);

    let in_one = include_str!("../../../deploy/helm/rendered/minimal.yaml");
    assert_eq!(granted(in_one, "Role", "wharf-operator", Some("team-a")), others);
    let at_home = granted(in_one, "Role", "wharf-operator-home", home);
    assert_eq!(at_home[..leases.len()], leases);
    // The gateways, whose pods are not in the namespace that it looks after.
    assert_eq!(
        at_home[leases.len()..],
        [serde_json::json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]})]
    );
}

#[test]
fn an_installation_that_foresees_room_lets_the_operator_see_nodes() {
    let needed = rules(&wharf_operator::cluster_role("wharf-operator", true));
    let is_lease = |rule: &Value| rule["resources"] == serde_json::json!(["leases"]);
    let others: Vec<Value> = needed.into_iter().filter(|rule| !is_lease(rule)).collect();
    let production = include_str!("../../../deploy/helm/rendered/production.yaml");
    assert!(production.contains("foreseeRoom: true"));
    assert_eq!(granted(production, "ClusterRole", "wharf-operator", None), others);
}
