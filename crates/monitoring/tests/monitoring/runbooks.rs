//! Somebody who is called finds a page for what called them.

use std::collections::BTreeSet;

use crate::support::{alerts, installed, root};

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let groups = installed();
    let named: BTreeSet<String> = alerts(&groups).iter().map(|alert| format!("{}.md", alert.name)).collect();
    let pages: BTreeSet<String> = std::fs::read_dir(root("docs/runbooks"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name != "README.md")
        .collect();
    assert_eq!(pages, named);
    let index = std::fs::read_to_string(root("docs/runbooks/README.md")).unwrap();
    for page in &pages {
        assert!(index.contains(&format!("({page})")), "README.md does not name {page}");
    }
}

#[test]
fn a_runbook_tells_what_it_means_how_to_see_it_why_and_what_to_do() {
    for alert in alerts(&installed()) {
        let page = std::fs::read_to_string(root(&format!("docs/runbooks/{}.md", alert.name))).unwrap();
        assert!(page.starts_with(&format!("# {}\n", alert.name)), "{}", alert.name);
        for part in ["## Meaning", "## Look", "## Causes", "## Do"] {
            assert!(page.contains(&format!("\n{part}\n")), "{} lacks {part}", alert.name);
        }
    }
}

#[test]
fn alerts_of_a_service_have_names_that_have_runbooks() {
    let groups = installed();
    let known: BTreeSet<&str> = alerts(&groups).iter().map(|alert| alert.name).collect();
    for name in crate::support::examples() {
        for rules in crate::support::of_example(&name, wharf_manifests::Mode::Managed) {
            for rule in rules["spec"]["groups"][0]["rules"].as_array().unwrap() {
                let alert = rule["alert"].as_str().unwrap();
                assert!(known.contains(alert), "{alert}");
                let page = rule["annotations"]["runbook_url"].as_str().unwrap();
                assert!(page.ends_with(&format!("/docs/runbooks/{alert}.md")), "{page}");
            }
        }
    }
}
