//! The reference page of the objects, from their schemas.

use std::fmt::Write as _;

use serde_json::Value;

use crate::crd::{KINDS, schema};

/// Every field of every kind, as Markdown.
pub fn page() -> String {
    let mut page = String::from(
        "# LLMService and Model\n\n\
         <!-- Generated from crates/spec; renew with `UPDATE_EXPECT=1 cargo test -p wharf-spec`. -->\n\n\
         Unknown fields are errors. A value shown in parentheses is the default. `wharf validate -f FILE` says what is wrong with an \
         object, all at once.\n",
    );
    for (name, kind) in KINDS {
        let schema = schema(*kind);
        let about = schema["description"].as_str().unwrap_or_default();
        write!(page, "\n## {name}\n\n{about}\n").expect("a string takes everything");
        for part in ["spec", "status"] {
            table(&mut page, part, &schema["properties"][part]);
        }
    }
    page
}

/// The fields of an object, then those of the objects in it.
fn table(page: &mut String, path: &str, schema: &Value) {
    let Value::Object(properties) = &schema["properties"] else { return };
    write!(page, "\n### {path}\n\n").expect("a string takes everything");
    if let Some(about) = schema["description"].as_str() {
        write!(page, "{}\n\n", one_line(about)).expect("a string takes everything");
    }
    page.push_str("| field | value | meaning |\n|---|---|---|\n");
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, property) in properties {
        let about = one_line(property["description"].as_str().unwrap_or_default());
        let must = if required.contains(&name.as_str()) { "Required. " } else { "" };
        writeln!(page, "| `{name}` | {} | {must}{about} |", value(property))
            .expect("a string takes everything");
    }
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        if let Some(message) = rule["message"].as_str() {
            write!(page, "\nRule: {message}.\n").expect("a string takes everything");
        }
    }
    for (name, property) in properties {
        if borrowed(property) {
            continue;
        }
        table(page, &format!("{path}.{name}"), property);
        table(page, &format!("{path}.{name}[]"), &property["items"]);
    }
}

/// Types of Kubernetes itself, whose fields its own reference describes.
fn borrowed(property: &Value) -> bool {
    let about = |schema: &Value| {
        let text = schema["description"].as_str().unwrap_or_default();
        ["HorizontalPodAutoscalerBehavior configures", "EnvVar represents", "The pod this Toleration"]
            .iter()
            .any(|start| text.starts_with(start))
    };
    let fields = |schema: &Value| {
        let has = |name: &str| schema["properties"][name].is_object();
        (has("scaleDown") && has("scaleUp")) || (has("valueFrom") && has("name")) || has("tolerationSeconds")
    };
    [property, &property["items"]].iter().any(|schema| about(schema) || fields(schema))
}

/// What a field holds, and its default.
fn value(property: &Value) -> String {
    let words = |schema: &Value| -> String {
        if let Some(options) = schema["enum"].as_array() {
            let names = options.iter().filter_map(Value::as_str).map(|name| format!("`{name}`"));
            return names.collect::<Vec<_>>().join(", ");
        }
        if schema["x-kubernetes-int-or-string"] == true {
            return "number or text".to_owned();
        }
        match schema["type"].as_str() {
            Some("object") => "fields".to_owned(),
            Some("string") => "text".to_owned(),
            Some("boolean") => "`true`, `false`".to_owned(),
            Some("integer") => range(schema, "whole number"),
            Some("number") => range(schema, "number"),
            Some(other) => other.to_owned(),
            None => "anything".to_owned(),
        }
    };
    let mut text = match property["type"].as_str() {
        Some("array") => format!("list of {}", words(&property["items"])),
        _ => words(property),
    };
    match &property["default"] {
        Value::Null | Value::Object(_) | Value::Array(_) => {}
        Value::String(default) => write!(text, " (`{default}`)").expect("a string takes everything"),
        default => write!(text, " (`{default}`)").expect("a string takes everything"),
    }
    text
}

fn range(schema: &Value, name: &str) -> String {
    let bound = |key: &str| schema[key].as_f64();
    match (bound("minimum"), bound("maximum")) {
        (Some(low), Some(high)) => format!("{name} from {low} to {high}"),
        (Some(low), None) => format!("{name} from {low}"),
        _ => name.to_owned(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
