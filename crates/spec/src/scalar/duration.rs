//! Spans of time: `30s`, `5m`, `1h30m`.

use super::{Form, number, split_number, text_scalar, wrong};

pub(super) const FORM: Form = Form {
    pattern: r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$",
    expected: "a time with its unit, such as 500ms, 30s, 5m or 1h30m",
};

/// A span of time.
#[derive(Clone, Debug)]
pub struct Duration {
    text: String,
    value: std::time::Duration,
}

impl Duration {
    /// # Errors
    /// A sentence for the person who wrote the text.
    pub fn parse(text: &str) -> Result<Duration, String> {
        let mut rest = text;
        let mut seconds = 0.0;
        while !rest.is_empty() {
            let (digits, after) = split_number(rest);
            let unit = &after[..after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len())];
            let scale = match unit {
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86400.0,
                _ => return wrong(text, FORM),
            };
            match number(digits) {
                Some(number) => seconds += number * scale,
                None => return wrong(text, FORM),
            }
            rest = &after[unit.len()..];
        }
        match std::time::Duration::try_from_secs_f64(seconds) {
            Ok(value) if !text.is_empty() && seconds < 1e10 => Ok(Duration { text: text.to_owned(), value }),
            _ => wrong(text, FORM),
        }
    }

    /// As the standard library has it.
    pub fn get(&self) -> std::time::Duration {
        self.value
    }

    /// In seconds.
    pub fn seconds(&self) -> f64 {
        self.value.as_secs_f64()
    }

    /// In whole seconds, rounded up: what Kubernetes takes.
    pub fn whole_seconds(&self) -> i64 {
        self.seconds().ceil() as i64
    }
}

/// Two texts for one span are equal: `60s` and `1m`.
impl PartialEq for Duration {
    fn eq(&self, other: &Duration) -> bool {
        self.value == other.value
    }
}

text_scalar!(Duration, FORM);
