//! Which functions an answer calls, and with what. Pure. A fake model calls what it must and nothing else.
//!
//! `tool_choice: "required"` calls every function once, in their order, or the first alone where `parallel_tool_calls` is false; a named
//! function is called alone. With any other choice the answer is text. Arguments are made up from the function's JSON schema.

use serde_json::{Map, Value, json};

/// Characters of a piece of arguments: few enough for several pieces, and a token each.
const PIECE: usize = 6;
/// What a string is: it must be escaped in JSON, and in JSON within JSON once more, and a piece may end beside any of it.
const TEXT: &str = "a \"Zürich\" \\ of\n🚢s";

/// A function that is called.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// Its arguments, a JSON object, as the tokens that make it.
    pub(crate) pieces: Vec<String>,
}

/// The calls that a chat request demands; the error is a sentence for the client.
pub(crate) fn demanded(body: &Value) -> Result<Vec<Call>, String> {
    let none = Vec::new();
    let tools = body["tools"].as_array().unwrap_or(&none);
    let functions = tools.iter().map(|tool| &tool["function"]);
    match &body["tool_choice"] {
        Value::String(choice) if choice == "required" => {
            let most = if body["parallel_tool_calls"] == false { 1 } else { usize::MAX };
            let calls: Vec<Call> = functions.take(most).map(call).collect();
            if calls.is_empty() {
                return Err("tool_choice is required, but there are no tools".to_owned());
            }
            Ok(calls)
        }
        Value::Object(choice) => {
            let name = choice.get("function").and_then(|function| function["name"].as_str()).unwrap_or("");
            let named = functions.clone().find(|function| function["name"] == name);
            let named =
                named.ok_or_else(|| format!("tool_choice names {name:?}, which is none of the tools"))?;
            Ok(vec![call(named)])
        }
        _ => Ok(Vec::new()),
    }
}

fn call(function: &Value) -> Call {
    let properties = function["parameters"]["properties"].as_object();
    let arguments: Map<String, Value> =
        properties.into_iter().flatten().map(|(name, schema)| (name.clone(), example(schema))).collect();
    let arguments: Vec<char> = Value::Object(arguments).to_string().chars().collect();
    Call {
        name: function["name"].as_str().unwrap_or("").to_owned(),
        pieces: arguments.chunks(PIECE).map(|piece| piece.iter().collect()).collect(),
    }
}

/// A value that such a schema describes.
fn example(schema: &Value) -> Value {
    if let Some(value) = schema["enum"].get(0) {
        return value.clone();
    }
    match schema["type"].as_str() {
        Some("string") => TEXT.into(),
        Some("integer") => 3.into(),
        Some("number") => 0.5.into(),
        Some("boolean") => true.into(),
        Some("array") => json!([]),
        Some("object") => json!({}),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(choice: &Value) -> Value {
        let function = |name: &str, properties: Value| json!({"type": "function", "function": {"name": name, "parameters": {"properties": properties}}});
        let properties =
            json!({"place": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}});
        json!({"tools": [function("weather", properties), function("time", json!({}))], "tool_choice": choice})
    }

    fn names(body: &Value) -> Result<String, String> {
        Ok(demanded(body)?.into_iter().map(|call| call.name).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn only_what_must_be_called_is_called() {
        let named = |name: &str| json!({"type": "function", "function": {"name": name}});
        assert_eq!(names(&body(&json!("required"))).unwrap(), "weather time");
        assert_eq!(names(&body(&named("time"))).unwrap(), "time");
        assert_eq!(names(&body(&json!("auto"))).unwrap(), "");
        assert_eq!(names(&body(&Value::Null)).unwrap(), "");
        let mut one = body(&json!("required"));
        one["parallel_tool_calls"] = false.into();
        assert_eq!(names(&one).unwrap(), "weather");
    }

    #[test]
    fn a_call_of_what_is_not_there_is_refused_in_words() {
        let named = json!({"function": {"name": "tide"}});
        let error = names(&body(&named)).unwrap_err();
        assert_eq!(error, "tool_choice names \"tide\", which is none of the tools");
        let error = names(&json!({"tool_choice": "required"})).unwrap_err();
        assert_eq!(error, "tool_choice is required, but there are no tools");
    }

    #[test]
    fn the_pieces_of_arguments_make_an_object_of_the_schema() {
        let [call, empty] = &demanded(&body(&json!("required"))).unwrap()[..] else { panic!("two calls") };
        assert!(call.pieces.len() > 5, "{:?}", call.pieces);
        let arguments: Value = serde_json::from_str(&call.pieces.concat()).unwrap();
        assert_eq!(arguments, json!({"place": TEXT, "days": 3, "unit": "C"}));
        assert_eq!(empty.pieces, ["{}"]);
    }
}
