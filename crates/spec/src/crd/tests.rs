//! What the definitions say.

use kube::core::Resource;

use super::*;

fn crd(kind: &str) -> Value {
    crds().into_iter().find(|crd| crd["spec"]["names"]["kind"] == kind).unwrap()
}

#[test]
fn only_the_source_of_a_model_is_required_of_users() {
    let spec = &crd("LLMService")["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    assert_eq!(spec["required"], serde_json::json!(["model"]));
    let model = &crd("Model")["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    assert_eq!(model["required"], serde_json::json!(["source"]));
}

#[test]
fn the_only_default_is_that_of_replicas() {
    fn defaults(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, inner) in map {
                    if key == "default" && !inner.is_object() {
                        found.push(at.to_owned());
                    }
                    defaults(inner, &format!("{at}/{key}"), found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| defaults(item, at, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    let schema = crd("LLMService")["spec"]["versions"][0]["schema"].clone();
    defaults(&schema, "", &mut found);
    assert_eq!(found, ["/openAPIV3Schema/properties/spec/properties/replicas"]);
}

#[test]
fn services_have_short_names_columns_status_and_scale() {
    let crd = crd("LLMService");
    assert_eq!(crd["spec"]["names"]["shortNames"], serde_json::json!(["llm", "llms"]));
    let version = &crd["spec"]["versions"][0];
    assert_eq!(version["subresources"]["scale"]["specReplicasPath"], ".spec.replicas");
    assert_eq!(version["subresources"]["status"], serde_json::json!({}));
    let columns = version["additionalPrinterColumns"].as_array().unwrap();
    let names: Vec<&str> = columns.iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Ready", "Model", "Replicas", "URL", "Phase", "Reason", "Age"]);
    assert_eq!(LLMService::api_version(&()), crate::API_VERSION);
}

/// A structural schema, as the API server demands: every node has a type (or says that it may be a number or text), properties and
/// `additionalProperties: false` do not meet, and nothing is said by `anyOf` alone.
#[test]
fn schemas_are_structural() {
    fn walk(schema: &Value, at: &str) {
        let typed = schema["type"].is_string()
            || schema["x-kubernetes-int-or-string"] == true
            || schema["x-kubernetes-preserve-unknown-fields"] == true;
        assert!(typed, "{at} has no type: {schema}");
        assert!(schema["additionalProperties"] != false, "{at}");
        for word in ["anyOf", "oneOf", "allOf", "$ref", "not"] {
            assert!(schema[word].is_null(), "{at} has {word}: {schema}");
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            walk(property, &format!("{at}.{name}"));
        }
        for key in ["items", "additionalProperties"] {
            if schema[key].is_object() {
                walk(&schema[key], &format!("{at}.{key}"));
            }
        }
    }
    for crd in crds() {
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            walk(&schema["properties"][part], part);
        }
    }
}

#[test]
fn every_field_of_ours_says_what_it_is() {
    fn walk(schema: &Value, at: &str) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}.{name}");
            assert!(property["description"].as_str().is_some_and(|text| !text.is_empty()), "{at}");
            walk(property, &at);
            walk(&property["items"], &at);
        }
    }
    for crd in crds() {
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            walk(&schema["properties"][part], part);
        }
    }
}

#[test]
fn the_generated_files_are_fresh() {
    expect_test::expect_file!["../../../../deploy/crds/wharf.dev.yaml"].assert_eq(&yaml());
    expect_test::expect_file!["../../../../docs/reference/objects.md"].assert_eq(&crate::reference::page());
}
