//! Server-sent events as OpenAI clients read them: one `data:` line of JSON per event, `[DONE]` at the end.

use serde::Serialize;

/// The last event of a stream that ended well.
pub const DONE: &str = "data: [DONE]\n\n";

/// A comment line: clients skip it, proxies see traffic.
pub const KEEP_ALIVE: &str = ": keep-alive\n\n";

/// One event. JSON never holds a raw newline, so one `data:` line carries any value.
///
/// # Errors
/// When the value's `Serialize` fails, which our own types never do.
pub fn frame(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let mut frame = String::from("data: ");
    frame.push_str(&serde_json::to_string(value)?);
    frame.push_str("\n\n");
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newlines_in_text_stay_inside_one_event() {
        assert_eq!(frame(&"a\nb\r\n\n").unwrap(), "data: \"a\\nb\\r\\n\\n\"\n\n");
    }
}
