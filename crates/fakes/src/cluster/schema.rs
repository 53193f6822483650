//! Structural schemas of custom kinds: fields that they do not know are dropped, defaults filled in, values compared. Pure.

use jsonschema::Validator;
use serde_json::{Map, Value};

use super::failure::Cause;

/// Drops unknown fields and fills in defaults, as a server does before it looks further.
pub(crate) fn prune_and_default(object: &mut Value, schema: &Value) {
    let Value::Object(map) = object else { return };
    let Some(properties) = schema["properties"].as_object() else { return };
    let keeps = schema["x-kubernetes-preserve-unknown-fields"] == true;
    map.retain(|name, _| {
        keeps || properties.contains_key(name) || ["apiVersion", "kind", "metadata"].contains(&name.as_str())
    });
    for (name, schema) in properties {
        // Metadata has a schema of its own.
        if name != "metadata" {
            fill(map, name, schema);
        }
    }
}

fn fill(map: &mut Map<String, Value>, name: &str, schema: &Value) {
    if !map.contains_key(name)
        && let Some(default) = schema.get("default")
    {
        map.insert(name.to_owned(), default.clone());
    }
    if let Some(value) = map.get_mut(name) {
        inside(value, schema);
    }
}

fn inside(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(properties) = schema["properties"].as_object() {
                if schema["x-kubernetes-preserve-unknown-fields"] != true {
                    map.retain(|name, _| properties.contains_key(name));
                }
                properties.iter().for_each(|(name, schema)| fill(map, name, schema));
            } else if schema["additionalProperties"].is_object() {
                map.values_mut().for_each(|value| inside(value, &schema["additionalProperties"]));
            } else if schema["x-kubernetes-preserve-unknown-fields"] != true
                && schema["additionalProperties"] != true
            {
                map.clear();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| inside(item, &schema["items"])),
        _ => {}
    }
}

/// What a schema says is wrong with an object.
pub(crate) fn check(object: &Value, schema: &Value) -> Vec<Cause> {
    let mut schema = schema.clone();
    speak_json_schema(&mut schema);
    schema["properties"]["metadata"] = serde_json::json!({"type": "object"});
    let validator: Validator = match jsonschema::validator_for(&schema) {
        Ok(validator) => validator,
        Err(error) => {
            let message = format!("the schema of the kind cannot be read: {error}");
            return vec![Cause { reason: "InternalError", field: String::new(), message }];
        }
    };
    let cause = |error: jsonschema::ValidationError<'_>| Cause {
        reason: "FieldValueInvalid",
        field: error.instance_path().to_string().trim_start_matches('/').replace('/', "."),
        message: format!("Invalid value: {error}"),
    };
    let mut causes: Vec<Cause> = validator.iter_errors(object).map(cause).collect();
    causes.sort_by(|a, b| a.field.cmp(&b.field));
    causes
}

/// Says in JSON Schema what Kubernetes has its own words for.
fn speak_json_schema(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("nullable") == Some(&Value::Bool(true))
                && let Some(kind) = map.get("type").filter(|kind| kind.is_string()).cloned()
            {
                map.insert("type".to_owned(), serde_json::json!([kind, "null"]));
            }
            map.values_mut().for_each(speak_json_schema);
        }
        Value::Array(items) => items.iter_mut().for_each(speak_json_schema),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1}, "replicas": {"type": "integer", "default": 1},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}}}}}})
    }

    #[test]
    fn unknown_fields_go_and_defaults_come() {
        let mut object = json!({"kind": "X", "metadata": {"name": "n"}, "extra": 1,
            "spec": {"size": 1, "typo": 2, "free": {"a": 1}, "labels": {"a": "b"}}});
        prune_and_default(&mut object, &schema());
        assert_eq!(
            object,
            json!({"kind": "X", "metadata": {"name": "n"},
                "spec": {"size": 1, "free": {"a": 1}, "labels": {"a": "b"}, "replicas": 1}})
        );
    }

    #[test]
    fn values_are_compared_with_the_schema() {
        let fields = |object: Value| {
            check(&object, &schema()).into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        assert_eq!(fields(json!({"spec": {"size": 0, "labels": {"a": 1}}})), ["spec.labels.a", "spec.size"]);
        assert_eq!(fields(json!({"spec": {}})), ["spec"]);
        assert_eq!(fields(json!({"spec": {"size": 2}})), [""; 0]);
    }
}
