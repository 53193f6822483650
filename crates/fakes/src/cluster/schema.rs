//! Structural schemas of custom kinds: unknown fields are dropped, defaults filled in, values and rules (CEL) compared. Pure.

use std::sync::LazyLock;

use jsonschema::Validator;
use kube::core::cel;
use serde_json::{Map, Value};

use super::failure::Cause;

/// What a version of a custom kind says of its objects. What is made of it to compare objects is made once.
#[derive(Debug)]
pub(crate) struct Schema {
    raw: Value,
    validator: Result<Validator, String>,
    rules: cel::CompiledSchema,
}

/// The functions that rules may call.
static RULES: LazyLock<cel::Validator> = LazyLock::new(cel::Validator::new);

impl Schema {
    pub(crate) fn new(raw: &Value) -> Schema {
        let mut spoken = raw.clone();
        speak_json_schema(&mut spoken);
        spoken["properties"]["metadata"] = serde_json::json!({"type": "object"});
        Schema {
            raw: raw.clone(),
            validator: jsonschema::validator_for(&spoken).map_err(|error| error.to_string()),
            rules: cel::compile_schema(raw),
        }
    }

    pub(crate) fn raw(&self) -> &Value {
        &self.raw
    }

    /// Drops unknown fields and fills in defaults, as a server does before it looks further. Returns the paths of what is dropped.
    pub(crate) fn prune_and_default(&self, object: &mut Value) -> Vec<String> {
        let mut dropped = Vec::new();
        let Value::Object(map) = object else { return dropped };
        let Some(properties) = self.raw["properties"].as_object() else { return dropped };
        let system = ["apiVersion", "kind", "metadata"];
        if self.raw["x-kubernetes-preserve-unknown-fields"] != true {
            prune(map, "", &mut dropped, |name| properties.contains_key(name) || system.contains(&name));
        }
        for (name, schema) in properties {
            // Metadata has a schema of its own.
            if name != "metadata" {
                fill(map, name, schema, "", &mut dropped);
            }
        }
        dropped
    }

    /// What is wrong with an object, beside what it was.
    pub(crate) fn check(&self, object: &Value, live: Option<&Value>) -> Vec<Cause> {
        let cause = |field: String, message: String| Cause { reason: "FieldValueInvalid", field, message };
        let validator = match &self.validator {
            Ok(validator) => validator,
            Err(error) => return vec![cause(String::new(), format!("the schema cannot be read: {error}"))],
        };
        let mut causes: Vec<Cause> = validator
            .iter_errors(object)
            .map(|error| {
                let field = error.instance_path().to_string().trim_start_matches('/').replace('/', ".");
                cause(field, format!("Invalid value: {error}"))
            })
            .collect();
        causes.sort_by(|a, b| a.field.cmp(&b.field));
        // Rules are about objects that have the form that the schema says.
        if causes.is_empty()
            && let Err(errors) = RULES.validate_compiled(&self.rules, object, live)
        {
            let broken = |error: &cel::ValidationError| {
                cause(
                    error.field_path.trim_start_matches('.').to_owned(),
                    format!("Invalid value: {}", error.message),
                )
            };
            causes.extend(errors.as_slice().iter().map(broken));
        }
        causes
    }
}

fn prune(map: &mut Map<String, Value>, at: &str, dropped: &mut Vec<String>, known: impl Fn(&str) -> bool) {
    map.retain(|name, _| {
        let keep = known(name);
        if !keep {
            dropped.push(join(at, name));
        }
        keep
    });
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

fn fill(map: &mut Map<String, Value>, name: &str, schema: &Value, at: &str, dropped: &mut Vec<String>) {
    // A null where the schema has no place for one is no value.
    if map.get(name).is_some_and(Value::is_null) && schema["nullable"] != true {
        map.shift_remove(name);
    }
    if !map.contains_key(name)
        && let Some(default) = schema.get("default")
    {
        map.insert(name.to_owned(), default.clone());
    }
    if let Some(value) = map.get_mut(name) {
        inside(value, schema, &join(at, name), dropped);
    }
}

fn inside(value: &mut Value, schema: &Value, at: &str, dropped: &mut Vec<String>) {
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let additional = &schema["additionalProperties"];
    match value {
        Value::Object(map) => {
            if let Some(properties) = schema["properties"].as_object() {
                if !open {
                    prune(map, at, dropped, |name| properties.contains_key(name));
                }
                properties.iter().for_each(|(name, schema)| fill(map, name, schema, at, dropped));
            } else if additional.is_object() {
                map.iter_mut().for_each(|(name, value)| inside(value, additional, &join(at, name), dropped));
            } else if !open && additional != true {
                prune(map, at, dropped, |_| false);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                inside(item, &schema["items"], &format!("{at}[{index}]"), dropped);
            }
        }
        _ => {}
    }
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

    fn schema() -> Schema {
        Schema::new(&json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["size"],
            "x-kubernetes-validations": [{"rule": "self.size < 10", "message": "too large"}], "properties": {
            "size": {"type": "integer", "minimum": 1}, "replicas": {"type": "integer", "default": 1},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}}}}}}))
    }

    #[test]
    fn unknown_fields_go_and_defaults_come() {
        let mut object = json!({"kind": "X", "metadata": {"name": "n"}, "extra": 1,
            "spec": {"size": 1, "typo": 2, "replicas": null, "free": {"a": 1}, "labels": {"a": "b"}}});
        assert_eq!(schema().prune_and_default(&mut object), ["extra", "spec.typo"]);
        assert_eq!(
            object,
            json!({"kind": "X", "metadata": {"name": "n"},
                "spec": {"size": 1, "free": {"a": 1}, "labels": {"a": "b"}, "replicas": 1}})
        );
    }

    #[test]
    fn values_are_compared_with_the_schema_and_its_rules() {
        let fields = |object: Value| {
            schema().check(&object, None).into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        assert_eq!(fields(json!({"spec": {"size": 0, "labels": {"a": 1}}})), ["spec.labels.a", "spec.size"]);
        assert_eq!(fields(json!({"spec": {}})), ["spec"]);
        assert_eq!(fields(json!({"spec": {"size": 2}})), [""; 0]);
        let large = schema().check(&json!({"spec": {"size": 20}}), None);
        assert_eq!(
            (large[0].field.as_str(), large[0].message.as_str()),
            ("spec", "Invalid value: too large")
        );
    }
}
