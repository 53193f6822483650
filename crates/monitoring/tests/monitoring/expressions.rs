//! Every expression asks for metrics, labels and bounds that exist, and every text names labels that its result has.

use std::collections::BTreeSet;

use serde_json::Value;
use wharf_manifests::Mode;
use wharf_monitoring::rules::Tuning;
use wharf_monitoring::{RUNBOOKS, Rule, dashboards, document};

use crate::support::{examples, installed, of_example};
use crate::vocabulary::Vocabulary;

/// Names within `open` and `close`.
fn named<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).filter_map(move |rest| Some(rest.split_once(close)?.0.trim()))
}

/// The names that rules give to results, beside what roles export.
fn with_records() -> Vocabulary {
    let mut known = Vocabulary::new();
    for rule in installed().iter().flat_map(|group| &group.rules) {
        if let Rule::Record { name, expr } = rule {
            let labels = known.read(expr).unwrap_or_else(|wrong| panic!("{name}: {wrong:#?}"));
            known.record(name, labels);
        }
    }
    known
}

/// What is wrong with the alerts of a file of rules.
fn faults(known: &Vocabulary, rules: &Value) -> Vec<String> {
    let groups = rules["groups"].as_array().unwrap().iter();
    let mut faults = Vec::new();
    for rule in groups.flat_map(|group| group["rules"].as_array().unwrap()) {
        let Some(alert) = rule["alert"].as_str() else { continue };
        let labels = match known.read(rule["expr"].as_str().unwrap()) {
            Ok(labels) => labels,
            Err(wrong) => {
                faults.extend(wrong);
                continue;
            }
        };
        let own: BTreeSet<&str> = rule["labels"].as_object().unwrap().keys().map(String::as_str).collect();
        for text in rule["annotations"].as_object().unwrap().values().filter_map(Value::as_str) {
            let unknown = named(text, "$labels.", " ")
                .filter(|label| !labels.contains(*label) && !own.contains(label))
                .map(|label| format!("{alert}: {text:?} names the label {label}, of {labels:?}"));
            faults.extend(unknown);
        }
    }
    faults
}

#[test]
fn every_alert_of_an_installation_asks_for_what_exists() {
    let known = with_records();
    assert_eq!(faults(&known, &document(&installed(), RUNBOOKS)), Vec::<String>::new());
}

#[test]
fn an_alert_that_names_what_is_not_there_is_found() {
    let known = with_records();
    let alert = |expr: &str, summary: &str| {
        let rule = serde_json::json!({"alert": "X", "expr": expr, "labels": {}, "annotations": {"summary": summary}});
        faults(&known, &serde_json::json!({"groups": [{"rules": [rule]}]}))
    };
    assert_eq!(
        alert("sum by (service) (wharf_gateway_queued) > 0", "{{ $labels.service }}"),
        Vec::<String>::new()
    );
    assert_eq!(alert("sum by (service) (wharf_gateway_queued) > 0", "{{ $labels.pod }}").len(), 1);
    assert_eq!(alert("sum by (service) (wharf_gateway_queue) > 0", "x").len(), 2);
}

#[test]
fn every_alert_of_a_rendered_service_asks_for_what_exists() {
    let known = Vocabulary::new();
    let mut seen = 0;
    for name in examples() {
        for mode in [Mode::Managed, Mode::Standalone] {
            for rules in of_example(&name, mode) {
                seen += 1;
                assert_eq!(faults(&known, &rules["spec"]), Vec::<String>::new(), "{name}");
            }
        }
    }
    assert!(seen >= 3, "examples with alerts of their own are there");
}

#[test]
fn every_panel_shows_what_exists_and_names_its_series_by_labels_that_they_have() {
    let known = with_records();
    for dashboard in dashboards::all() {
        let mut shown = 0;
        let json = dashboard.json();
        for (panel, target) in json["panels"].as_array().unwrap().iter().flat_map(|panel| {
            panel["targets"].as_array().into_iter().flatten().map(move |target| (panel, target))
        }) {
            shown += 1;
            let title = &panel["title"];
            let labels = known
                .read(target["expr"].as_str().unwrap())
                .unwrap_or_else(|wrong| panic!("{} {title}: {wrong:#?}", dashboard.name));
            for label in named(target["legendFormat"].as_str().unwrap(), "{{", "}}") {
                assert!(labels.contains(label), "{} {title}: {label} of {labels:?}", dashboard.name);
            }
        }
        assert_eq!(shown, dashboard.expressions().count());
        for (selector, label) in dashboard.choices() {
            let labels =
                known.read(selector).unwrap_or_else(|wrong| panic!("{}: {wrong:#?}", dashboard.name));
            assert!(labels.contains(label), "{}: {label}", dashboard.name);
        }
    }
}

#[test]
fn every_bound_that_the_chart_offers_is_one_of_the_histogram() {
    let schema =
        std::fs::read_to_string(crate::support::root("deploy/helm/wharf/values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let objectives =
        &schema["properties"]["monitoring"]["properties"]["rules"]["properties"]["objectives"]["properties"];
    for (name, histogram) in [
        ("firstTokenSeconds", &wharf_telemetry::metrics::server::TTFT_SECONDS),
        ("betweenTokensSeconds", &wharf_telemetry::metrics::server::INTER_TOKEN_SECONDS),
    ] {
        let wharf_telemetry::metrics::Kind::Histogram(bounds) = histogram.kind else { panic!("{name}") };
        let offered: Vec<f64> =
            objectives[name]["enum"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
        assert_eq!(offered, bounds, "{name}");
    }
}

#[test]
fn marks_stand_where_the_numbers_stand() {
    let marks = Tuning::marks();
    let mut text = document(&wharf_monitoring::rules::groups(&marks), &marks.runbooks).to_string();
    let plain = Tuning::default();
    for (mark, number) in [
        (&marks.errors, &plain.errors),
        (&marks.first_token_seconds, &plain.first_token_seconds),
        (&marks.first_token, &plain.first_token),
        (&marks.between_tokens_seconds, &plain.between_tokens_seconds),
        (&marks.between_tokens, &plain.between_tokens),
        (&marks.min_requests, &plain.min_requests),
        (&marks.runbooks, &plain.runbooks),
    ] {
        assert!(text.contains(mark.as_str()), "{mark}");
        text = text.replace(mark.as_str(), number);
    }
    assert_eq!(text, document(&installed(), RUNBOOKS).to_string());
}
