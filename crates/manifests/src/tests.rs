//! What services and models are rendered to: every example as a snapshot, and what must hold of any of them.

mod chart;
mod consistency;
mod examples;
mod guide;
mod guide_chart;
mod network;
mod properties;
mod removal;
mod stability;
mod typed;

use serde_json::Value;
use wharf_spec::{Document, LLMService, Object, Problem, Severity, check};

use crate::{Mode, Settings, State};

/// The objects in a text, which must be without errors.
fn parse(file: &str, text: &str) -> Vec<Object> {
    let documents = Document::read(file, text).unwrap();
    let mut objects = Vec::new();
    for document in &documents {
        let (object, problems) = check(document);
        let errors: Vec<&Problem> =
            problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
        assert!(errors.is_empty(), "{errors:?}");
        objects.extend(object);
    }
    objects
}

/// A service in namespace `llm` with a spec.
fn service(spec: &str) -> LLMService {
    let text = format!(
        "apiVersion: wharf.dev/v1alpha1\nkind: LLMService\nmetadata: {{name: assistant, namespace: llm}}\nspec: {spec}\n"
    );
    match parse("-", &text).remove(0) {
        Object::Service(service) => *service,
        other => panic!("not a service: {other:?}"),
    }
}

/// Everything that a service is rendered to.
fn render(service: &LLMService, mode: Mode) -> Vec<Value> {
    crate::service(service, &State::fresh(service), &Settings::default(), mode).unwrap()
}

/// The one object of a kind.
fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "several {kind}");
    first
}

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}
