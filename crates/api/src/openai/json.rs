//! From a request body to a typed value, or to an error that says where in the body the trouble is.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::ApiError;

/// Parses a whole body. Unknown fields are for the type to ignore; nesting is limited by `serde_json` to 128.
///
/// # Errors
/// [`ApiError::InvalidRequest`]: for bytes that are no UTF-8 or no JSON with the place, for a wrong type with
/// the field's path.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let invalid =
        |message: String, param: Option<String>, code| ApiError::InvalidRequest { message, param, code };
    let text = std::str::from_utf8(body).map_err(|e| {
        let message = format!("the request body is not valid UTF-8 at byte {}", e.valid_up_to());
        invalid(message, None, Some("invalid_utf8"))
    })?;
    // A list would be read as a structure's fields in order, which no client means.
    if text.trim_start().starts_with('[') {
        let message = "the request body must be a JSON object, not a list".to_owned();
        return Err(invalid(message, None, Some("invalid_json")));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|e| {
        let path = e.path().to_string();
        let cause = e.into_inner();
        match cause.classify() {
            Category::Data if path == "." => {
                invalid(format!("the request body is wrong: {cause}"), None, None)
            }
            Category::Data => invalid(format!("{path} is wrong: {cause}"), Some(path), None),
            Category::Syntax | Category::Eof | Category::Io => {
                invalid(format!("the request body is not valid JSON: {cause}"), None, Some("invalid_json"))
            }
        }
    })?;
    deserializer.end().map_err(|e| {
        invalid(format!("the request body is not valid JSON: {e}"), None, Some("invalid_json"))
    })?;
    Ok(value)
}
