//! Compares an object with the schema of its kind: unknown fields, wrong types, values that do not have their form.

use std::sync::LazyLock;

use jsonschema::Validator;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Document, Problem, Severity};
use crate::crd::{Kind, schema};
use crate::scalar::{FORMS, Form};

/// A kind's schema as it holds for what people write: unlike the API server, which drops fields that it does not know, we refuse
/// them.
struct Shape {
    schema: Value,
    validator: Validator,
}

impl Shape {
    fn new(kind: Kind) -> Shape {
        let mut schema = schema(kind);
        close(&mut schema);
        // Kubernetes has more metadata than anybody writes; what matters of it is typed.
        schema["properties"]["metadata"] = serde_json::json!({"type": "object"});
        for told_before in ["apiVersion", "kind"] {
            schema["properties"][told_before] = serde_json::json!({"type": "string"});
        }
        let validator = jsonschema::validator_for(&schema).expect("our own schema is one");
        Shape { schema, validator }
    }

    /// The schema of the value at a JSON pointer.
    fn at(&self, pointer: &str) -> &Value {
        pointer.split('/').skip(1).fold(&self.schema, |schema, part| match &schema["properties"][part] {
            Value::Null if schema["items"].is_object() => &schema["items"],
            Value::Null => &schema["additionalProperties"],
            property => property,
        })
    }
}

static SERVICE: LazyLock<Shape> = LazyLock::new(|| Shape::new(Kind::LLMService));
static MODEL: LazyLock<Shape> = LazyLock::new(|| Shape::new(Kind::Model));

/// Forbids fields beside those that an object is said to have.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let open = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
            if map.get("properties").is_some_and(Value::is_object) && !open {
                map.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            // Kubernetes' word for what JSON Schema says with a type.
            if map.get("nullable") == Some(&Value::Bool(true))
                && let Some(kind) = map.get("type").filter(|kind| kind.is_string()).cloned()
            {
                map.insert("type".to_owned(), serde_json::json!([kind, "null"]));
            }
            map.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// The object, without the fields that are wrong, and what is wrong with them. There is none when what is left does not make one.
pub(super) fn read<T: DeserializeOwned>(document: &Document, kind: Kind) -> (Option<T>, Vec<Problem>) {
    let shape: &Shape = match kind {
        Kind::LLMService => &SERVICE,
        Kind::Model => &MODEL,
    };
    let mut value = document.value().clone();
    let mut problems = Vec::new();
    let mut wrong = Vec::new();
    for error in shape.validator.iter_errors(document.value()) {
        let pointer = error.instance_path().to_string();
        for (inner, message) in complaints(shape, &pointer, error.kind(), error.instance()) {
            problems.push(document.problem(Severity::Error, &path(&inner), message));
            wrong.push(inner);
        }
    }
    // From the back, so that indices of lists stay right.
    wrong.sort();
    wrong.iter().rev().for_each(|pointer| remove(&mut value, pointer));
    // What the schema cannot say, types do; one complaint at a time, so the field goes and the rest is read again.
    for _ in 0..100 {
        match serde_path_to_error::deserialize(&value) {
            Ok(object) => return (Some(object), problems),
            Err(error) => {
                let path = error.path().to_string();
                let pointer = super::document::pointer(&path);
                // What is missing only since it was taken out has been complained about.
                let known = wrong.iter().any(|wrong| wrong.starts_with(&pointer));
                if !known {
                    let message = error.inner().to_string();
                    problems.push(document.problem(Severity::Error, &path, message));
                }
                if known || value.pointer(&pointer).is_none() || pointer.is_empty() {
                    return (None, problems);
                }
                remove(&mut value, &pointer);
                wrong.push(pointer);
            }
        }
    }
    (None, problems)
}

/// JSON pointer and sentence for each thing that one error of the validator means.
fn complaints(
    shape: &Shape,
    pointer: &str,
    kind: &ValidationErrorKind,
    value: &Value,
) -> Vec<(String, String)> {
    let here = |message: String| vec![(pointer.to_owned(), message)];
    match kind {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let known: Vec<&str> = match &shape.at(pointer)["properties"] {
                Value::Object(properties) => properties.keys().map(String::as_str).collect(),
                _ => Vec::new(),
            };
            let complaint = |name: &String| (format!("{pointer}/{name}"), unknown("field", name, &known));
            unexpected.iter().map(complaint).collect()
        }
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            vec![(format!("{pointer}/{name}"), "is required".to_owned())]
        }
        ValidationErrorKind::Enum { options } => {
            let names: Vec<&str> =
                options.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            here(match value.as_str() {
                Some(text) => unknown("value", text, &names),
                None => format!("must be one of {}", names.join(", ")),
            })
        }
        ValidationErrorKind::Pattern { pattern } => here(match form(&Value::from(pattern.as_str())) {
            Some(form) => format!("must be {}, not {value}", form.expected),
            None => format!("{value} does not match {pattern}"),
        }),
        ValidationErrorKind::Type { .. } if form(&shape.at(pointer)["pattern"]).is_some() => {
            let expected = form(&shape.at(pointer)["pattern"]).map_or("", |form| form.expected);
            here(format!("must be {expected}, not {value}"))
        }
        ValidationErrorKind::Type { kind } => here(format!("must be {}, not {}", wanted(kind), found(value))),
        ValidationErrorKind::Minimum { limit } => here(format!("must be at least {limit}, not {value}")),
        ValidationErrorKind::Maximum { limit } => here(format!("must be at most {limit}, not {value}")),
        ValidationErrorKind::MinLength { limit: 1 } => here("must not be empty".to_owned()),
        other => here(format!("{value} is not allowed here ({})", other.keyword())),
    }
}

/// The form that has a pattern.
fn form(pattern: &Value) -> Option<&'static Form> {
    FORMS.iter().find(|form| pattern == form.pattern)
}

/// The complaint about a word that is not one of `known`, with the one that was probably meant.
pub(super) fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    let lower = word.to_lowercase();
    let distance = |name: &&&str| strsim::damerau_levenshtein(&lower, &name.to_lowercase());
    let nearest = known.iter().min_by_key(distance);
    match nearest {
        Some(name) if distance(&name) <= 1 + word.len() / 3 => {
            format!("unknown {what} {word:?}; did you mean {name:?}?")
        }
        _ => {
            let mut names = known.to_vec();
            names.sort_unstable();
            format!("unknown {what} {word:?}; there are {}", names.join(", "))
        }
    }
}

fn wanted(kind: &TypeKind) -> String {
    let name = |kind: String| match kind.as_str() {
        "object" => "a group of fields".to_owned(),
        "array" => "a list".to_owned(),
        "string" => "text".to_owned(),
        "integer" => "a whole number".to_owned(),
        "boolean" => "true or false".to_owned(),
        other => format!("a {other}"),
    };
    match kind {
        TypeKind::Single(kind) => name(kind.to_string()),
        TypeKind::Multiple(kinds) => {
            let names = kinds.iter().map(|kind| kind.to_string()).filter(|kind| kind != "null");
            names.map(name).collect::<Vec<_>>().join(" or ")
        }
    }
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Object(_) => "a group of fields".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::String(text) => format!("the text {text:?}"),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// `/spec/access/viewers/0` as `spec.access.viewers[0]`.
fn path(pointer: &str) -> String {
    let mut path = String::new();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if part.bytes().all(|b| b.is_ascii_digit()) {
            path.push_str(&format!("[{part}]"));
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&part);
        }
    }
    path
}

fn remove(value: &mut Value, pointer: &str) {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return };
    match value.pointer_mut(parent) {
        Some(Value::Object(map)) => {
            map.remove(&name.replace("~1", "/").replace("~0", "~"));
        }
        Some(Value::Array(items)) => {
            if let Some(index) = name.parse::<usize>().ok().filter(|index| *index < items.len()) {
                items.remove(index);
            }
        }
        _ => {}
    }
}
