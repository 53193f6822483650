//! Every alert has a case in which it fires and one in which it is quiet, among those that `cargo xtask verify-monitoring` gives to promtool.
//!
//! A case is named `ALERT SEVERITY: what happens`. It asks for the alert's own series, `ALERTS`: one that fires names all of its labels.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::{TRIED, alerts, installed, of_example, root};

/// Name and severity of an alert.
type Alert = (String, String);

/// What the cases of a file try, by whether it fires.
fn tried(file: &str) -> BTreeMap<bool, BTreeSet<Alert>> {
    let text = std::fs::read_to_string(root(&format!("crates/monitoring/promtool/{file}"))).unwrap();
    let cases: Value = serde_saphyr::from_str(&text).unwrap();
    let mut tried: BTreeMap<bool, BTreeSet<Alert>> = BTreeMap::new();
    for case in cases["tests"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let (alert, severity) = name.split_once(':').unwrap().0.split_once(' ').unwrap();
        let asked = case["promql_expr_test"].as_array().unwrap();
        assert!(!case["input_series"].as_array().unwrap().is_empty(), "{name}: nothing happens");
        for test in asked {
            let expected =
                format!("ALERTS{{alertname=\"{alert}\",severity=\"{severity}\",alertstate=\"firing\"}}");
            assert_eq!(test["expr"], expected.as_str(), "{name}");
            let samples = test["exp_samples"].as_array().unwrap();
            let fires = !samples.is_empty();
            assert_eq!(fires, name.ends_with(": fires") || name.contains(": fires "), "{name}");
            tried.entry(fires).or_default().insert((alert.to_owned(), severity.to_owned()));
        }
    }
    tried
}

fn assert_all(file: &str, wanted: &BTreeSet<Alert>) {
    let tried = tried(file);
    assert_eq!(tried.get(&true), Some(wanted), "{file}: alerts that fire");
    assert_eq!(tried.get(&false), Some(wanted), "{file}: alerts that are quiet");
}

#[test]
fn every_alert_of_an_installation_fires_and_is_quiet() {
    let groups = installed();
    let wanted = alerts(&groups)
        .iter()
        .map(|alert| (alert.name.to_owned(), alert.severity.name().to_owned()))
        .collect();
    assert_all("installation.test.yaml", &wanted);
}

#[test]
fn every_alert_of_a_service_fires_and_is_quiet() {
    for (name, example, mode) in TRIED {
        let rules = &of_example(example, mode)[0]["spec"]["groups"][0]["rules"];
        let of =
            |rule: &Value, pointer: &str| rule.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
        let wanted = rules
            .as_array()
            .unwrap()
            .iter()
            .map(|rule| (of(rule, "/alert"), of(rule, "/labels/severity")))
            .collect();
        assert_all(&format!("{name}.test.yaml"), &wanted);
    }
}
