//! The Job that removes what nothing needs any more.

use serde_json::json;
use wharf_spec::Model;

use super::*;
use crate::names::{MODEL, PART, REMOVES};
use crate::{Stored, removal};

fn model() -> Model {
    let text = "apiVersion: wharf.dev/v1alpha1\nkind: Model\nmetadata: {name: small, namespace: llm}\nspec: \
                {source: hf://a/b, credentials: {secretName: hf}, placement: {nodeSelector: {disk: fast}}}\n";
    match parse("-", text).remove(0) {
        Object::Model(model) => *model,
        other => panic!("not a model: {other:?}"),
    }
}

fn job(mark: &str, image: &str) -> Value {
    let stored = Stored { claim: "shared".to_owned(), name: "artifact-0123456789.gguf".to_owned() };
    let settings = Settings { image: image.to_owned(), ..Settings::default() };
    removal(&model(), &stored, mark, &settings)
}

#[test]
fn a_removal_reaches_nobody_and_knows_no_secret() {
    let job = job("1", "wharf:1");
    typed::loses_nothing(&job, "a removal");
    let template = &job["spec"]["template"];
    // The policy of its part lets nothing out.
    assert_eq!(
        (&template["metadata"]["labels"][PART], &template["metadata"]["labels"][MODEL]),
        (&json!("prepare"), &json!("small"))
    );
    let container = &template["spec"]["containers"][0];
    assert!(container["envFrom"].is_null());
    assert_eq!(
        container["args"].as_array().unwrap()[..3],
        [json!("fetch"), json!("--remove"), json!("/models/artifact-0123456789.gguf")]
    );
    assert_eq!(template["spec"]["volumes"][0]["persistentVolumeClaim"], json!({"claimName": "shared"}));
    assert_eq!(template["spec"]["nodeSelector"], json!({"disk": "fast"}));
    for metadata in [&job["metadata"], &template["metadata"]] {
        assert_eq!(metadata["labels"][REMOVES], "artifact-0123456789.gguf");
    }
}

#[test]
fn each_removal_is_a_job_of_its_own_whatever_wharf_is_upgraded_to() {
    let name = |job: Value| job["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(name(job("1", "wharf:1")), name(job("1", "wharf:2")));
    assert_ne!(name(job("1", "wharf:1")), name(job("2", "wharf:1")));
}
