//! What is checked in is what the code says: `UPDATE_EXPECT=1 cargo test -p wharf-monitoring` writes it.

use expect_test::expect_file;
use wharf_monitoring::rules::{Tuning, groups};
use wharf_monitoring::{RUNBOOKS, dashboards, document};

use crate::support::{TRIED, installed, of_example, root};

const HEAD: &str = "# Generated from crates/monitoring: UPDATE_EXPECT=1 cargo test -p wharf-monitoring\n";

fn yaml(value: &serde_json::Value) -> String {
    format!("{HEAD}{}", serde_saphyr::to_string(value).unwrap())
}

#[test]
fn the_rules_are_fresh() {
    expect_file![root("deploy/monitoring/rules.yaml")].assert_eq(&yaml(&document(&installed(), RUNBOOKS)));
    let marks = Tuning::marks();
    let chart = document(&groups(&marks), &marks.runbooks);
    expect_file![root("deploy/helm/wharf/files/rules.yaml")].assert_eq(&yaml(&chart));
}

#[test]
fn the_dashboards_are_fresh_and_no_others_are_there() {
    let folder = root("deploy/helm/wharf/files/dashboards");
    let mut names: Vec<String> = Vec::new();
    for dashboard in dashboards::all() {
        let name = format!("{}.json", dashboard.name);
        expect_file![folder.join(&name)].assert_eq(&dashboard.file());
        names.push(name);
    }
    names.sort();
    let mut there: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    there.sort();
    assert_eq!(there, names);
}

#[test]
fn the_rules_of_services_that_promtool_tries_are_fresh() {
    for (name, example, mode) in TRIED {
        let rules = of_example(example, mode);
        assert_eq!(rules.len(), 1, "{name}");
        expect_file![root(&format!("crates/monitoring/promtool/{name}.rules.yaml"))]
            .assert_eq(&yaml(&rules[0]["spec"]));
    }
}
