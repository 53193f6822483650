//! `wharf validate`, `wharf render` and `wharf crd`, as a shell sees them.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::Value;

use crate::wharf::{Finished, command, run};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");

/// Runs with `text` on standard input.
fn fed(args: &[&str], text: &str) -> Finished {
    let mut child =
        command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    Finished::from(child.wait_with_output().unwrap())
}

#[test]
fn a_folder_of_good_objects_is_valid() {
    let done = run(&["validate", "-f", EXAMPLES]);
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{done:?}");
    assert_eq!(done.out, "11 valid objects\n");
}

#[test]
fn bad_objects_end_with_2_and_every_problem() {
    let text = "apiVersion: wharf.dev/v1alpha1\nkind: LLMService\nmetadata: {name: a}\nspec:\n  model: {sorce: x}\n  replicas: -1\n";
    let done = fed(&["validate", "-f", "-"], text);
    assert_eq!((done.code, done.err.as_str()), (Some(2), "error: 3 errors\n"), "{done:?}");
    for part in [
        "-:5: error: spec.model.sorce: unknown field",
        "-:5: error: spec.model.source: is required",
        "-:6: error: spec.replicas",
    ] {
        assert!(done.out.contains(part), "{done:?}");
    }
    let json: Value =
        serde_json::from_str(&fed(&["validate", "-f", "-", "--output", "json"], text).out).unwrap();
    assert_eq!((&json["errors"], &json["problems"][0]["line"]), (&3.into(), &5.into()), "{json}");
}

#[test]
fn warnings_fail_only_when_they_are_asked_to() {
    let text = "apiVersion: wharf.dev/v1alpha1\nkind: LLMService\nmetadata: {name: a}\nspec: {model: {source: hf://a/b}, scaling: {max: 2}}\n";
    assert_eq!(fed(&["validate", "-f", "-"], text).code, Some(0));
    assert_eq!(fed(&["validate", "-f", "-", "--strict"], text).code, Some(2));
}

#[test]
fn files_without_objects_of_ours_are_no_success() {
    let done = fed(&["validate", "-f", "-"], "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n");
    assert_eq!(done.code, Some(2));
    assert!(done.err.contains("no LLMService or Model among 1 document"), "{done:?}");
    let missing = run(&["validate", "-f", "no-such-file.yaml"]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.err.contains("failed to read no-such-file.yaml"), "{missing:?}");
}

#[test]
fn what_is_rendered_is_the_same_every_time_and_has_the_namespace() {
    let file = format!("{EXAMPLES}/gpu.yaml");
    let args = ["render", "-f", &file, "-n", "llm", "--output", "json"];
    let (one, two) = (run(&args), run(&args));
    assert_eq!((one.code, &one.out), (Some(0), &two.out), "{one:?}");
    let objects: Vec<Value> = serde_json::from_str(&one.out).unwrap();
    assert!(objects.iter().all(|object| object["metadata"]["namespace"] == "llm"));
    let yaml = run(&["render", "-f", &file]);
    assert!(yaml.out.starts_with("---\napiVersion: v1\nkind: ServiceAccount\n"), "{}", yaml.out);
}

#[test]
fn what_cannot_be_rendered_says_why() {
    let file = format!("{EXAMPLES}/production.yaml");
    let done = run(&["render", "--standalone", "-f", &file]);
    assert_eq!(done.code, Some(2));
    assert!(
        done.err.contains("failed to render LLMService assistant") && done.err.contains("spec.scaling.min"),
        "{done:?}"
    );
    let broken = fed(
        &["render", "-f", "-"],
        "apiVersion: wharf.dev/v1alpha1\nkind: Model\nmetadata: {name: a}\nspec: {}\n",
    );
    assert_eq!((broken.code, broken.out.as_str()), (Some(2), ""), "{broken:?}");
    assert!(broken.err.contains("spec.source: is required"), "{broken:?}");
}

#[test]
fn the_settings_of_an_installation_are_used_and_checked() {
    let folder = tempfile::TempDir::new().unwrap();
    let settings = folder.path().join("settings.yaml");
    std::fs::write(&settings, "image: mirror.example.com/wharf:1\n").unwrap();
    let file = format!("{EXAMPLES}/quickstart.yaml");
    let args = ["render", "-f", &file, "--settings", settings.to_str().unwrap()];
    assert!(run(&args).out.contains("image: mirror.example.com/wharf:1\n"));
    std::fs::write(&settings, "imaeg: a\n").unwrap();
    let done = run(&args);
    assert!(done.code == Some(2) && done.err.contains("imaeg"), "{done:?}");
}

#[test]
fn the_kinds_are_printed_for_kubectl() {
    let done = run(&["crd"]);
    assert_eq!(done.code, Some(0));
    assert_eq!(done.out.matches("kind: CustomResourceDefinition").count(), 2);
    let json: Vec<Value> = serde_json::from_str(&run(&["crd", "--output", "json"]).out).unwrap();
    assert_eq!(json[0]["metadata"]["name"], "llmservices.wharf.dev");
}

#[test]
fn a_memory_target_below_the_weights_is_refused() {
    let folder = tempfile::TempDir::new().unwrap();
    let model = folder.path().join("m.gguf");
    wharf_testkit::TinyModel { hidden_size: 512, ffn_size: 2048, n_layers: 4, ..Default::default() }
        .write(&model)
        .unwrap();
    let megabytes = std::fs::metadata(&model).unwrap().len() / 1_000_000;
    let validate = |request: u64| {
        let text = format!(
            "apiVersion: wharf.dev/v1alpha1\nkind: LLMService\nmetadata: {{name: a}}\nspec:\n  model: {{source: file://{}}}\n  \
             resources: {{requests: {{memory: {request}M}}}}\n  scaling:\n    mode: hpa\n    target: {{memory: 80}}\n",
            model.display()
        );
        fed(&["validate", "-f", "-"], &text)
    };
    let enough = validate(megabytes * 2);
    assert_eq!(enough.code, Some(0), "{enough:?}");
    let scarce = validate(megabytes);
    assert_eq!(scarce.code, Some(2), "{scarce:?}");
    assert!(
        scarce.out.contains("-:9: error: spec.scaling.target.memory: the weights alone take"),
        "{scarce:?}"
    );
}
