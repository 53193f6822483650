//! What the chart renders is what the code says, with what the values say put in.

use serde_json::Value;
use wharf_monitoring::{RUNBOOKS, Rule, dashboards, document};

use crate::support::{installed, root};

fn rendered() -> Vec<Value> {
    let text = std::fs::read_to_string(root("deploy/helm/rendered/production.yaml")).unwrap();
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

#[test]
fn the_chart_has_every_rule_with_its_default_numbers() {
    let objects = rendered();
    let rules: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "PrometheusRule").collect();
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0]["spec"], document(&installed(), RUNBOOKS));
}

#[test]
fn the_chart_has_every_dashboard_as_it_is() {
    let objects = rendered();
    for dashboard in dashboards::all() {
        let key = format!("{}.json", dashboard.name);
        let maps: Vec<&Value> = objects.iter().filter(|object| object["data"][&key].is_string()).collect();
        assert_eq!(maps.len(), 1, "{key}");
        assert_eq!(maps[0]["metadata"]["labels"]["grafana_dashboard"], "1");
        let shipped: Value = serde_json::from_str(maps[0]["data"][&key].as_str().unwrap()).unwrap();
        assert_eq!(shipped, dashboard.json(), "{key}");
    }
}

#[test]
fn groups_that_the_chart_leaves_out_are_named_as_it_knows_them() {
    let template =
        std::fs::read_to_string(root("deploy/helm/wharf/templates/monitoring/rules.yaml")).unwrap();
    let groups = installed();
    for name in ["wharf-gateway", "wharf-nodes"] {
        assert!(template.contains(name) && groups.iter().any(|group| group.name == name), "{name}");
    }
    let records = |rule: &Rule| matches!(rule, Rule::Record { .. });
    assert!(
        groups
            .iter()
            .filter(|group| group.name != "wharf-objectives")
            .all(|group| !group.rules.iter().any(records))
    );
}
