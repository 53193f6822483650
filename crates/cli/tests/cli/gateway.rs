//! The gateway's commands as a user meets them: its configuration, keys, and the simulator of scaling.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::wharf;

#[test]
fn a_gateway_without_a_service_says_what_to_give() {
    let finished = wharf::run(&["gateway"]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.err.contains("--endpoint NAME=HOST:PORT"), "{}", finished.err);
    let finished = wharf::run(&["gateway", "--endpoint", "nonsense"]);
    assert_eq!((finished.code, finished.err.contains("NAME=HOST:PORT")), (Some(2), true));
}

#[test]
fn the_printed_configuration_can_be_given_back() {
    let endpoints = ["gateway", "--endpoint", "a=127.0.0.1:1", "--endpoint", "a=127.0.0.1:2", "--port", "81"];
    let printed = wharf::run(&[&endpoints[..], &["--print-config"]].concat());
    assert_eq!(printed.code, Some(0), "{}", printed.err);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.yaml");
    fs::write(&path, &printed.out).unwrap();
    let again = wharf::run(&["gateway", "--config", path.to_str().unwrap(), "--print-config"]);
    assert_eq!((again.code, again.out), (Some(0), printed.out));

    fs::write(&path, "prot: 81").unwrap();
    let refused = wharf::run(&["gateway", "--config", path.to_str().unwrap()]);
    assert_eq!((refused.code, refused.err.contains("prot")), (Some(2), true), "{}", refused.err);
}

#[test]
fn a_key_is_shown_once_and_only_its_digest_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.yaml");
    let file = path.to_str().unwrap();
    let created =
        wharf::run(&["key", "create", "ci", "--file", file, "--model", "assistant", "--expires", "30d"]);
    assert_eq!(created.code, Some(0), "{}", created.err);
    let key = created.out.trim();
    assert!(key.starts_with("wk-"), "{key}");
    let kept = fs::read_to_string(&path).unwrap();
    assert!(!kept.contains(key) && kept.contains("sha256"), "{kept}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let list = || {
        let listed = wharf::run(&["key", "list", "--file", file, "--output", "json"]);
        serde_json::from_str::<Value>(&listed.out).unwrap()
    };
    assert_eq!(
        (list()[0]["name"].as_str(), list()[0]["models"][0].as_str()),
        (Some("ci"), Some("assistant"))
    );
    assert!(wharf::run(&["key", "list", "--file", file]).out.contains("until "));
    assert_eq!(wharf::run(&["key", "revoke", "ci", "--file", file]).code, Some(0));
    assert_eq!(list()[0]["revoked"], true);
    let unknown = wharf::run(&["key", "revoke", "nobody", "--file", file]);
    assert_eq!(unknown.code, Some(2), "{}", unknown.err);
}

#[test]
fn policies_of_scaling_are_compared_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("scale.svg");
    let args =
        ["bench", "scale", "--hours", "0.05", "--policy", "native", "--policy", "hpa", "--output", "json"];
    let finished = wharf::run(&[&args[..], &["--plot", plot.to_str().unwrap()]].concat());
    assert_eq!(finished.code, Some(0), "{}", finished.err);
    let report: Value = serde_json::from_str(&finished.out).unwrap();
    let names: Vec<&str> =
        report["outcomes"].as_array().unwrap().iter().filter_map(|one| one["policy"].as_str()).collect();
    assert_eq!(names, ["native", "hpa"]);
    assert!(report["requests"].as_u64().unwrap() > 100);
    assert!(fs::read_to_string(&plot).unwrap().contains("<svg"));
    let unknown = wharf::run(&["bench", "scale", "--policy", "magic"]);
    assert_eq!((unknown.code, unknown.err.contains("native")), (Some(2), true), "{}", unknown.err);
}
