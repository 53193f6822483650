//! What templates expect of Python beyond Jinja: methods of strings, lists and dictionaries, and how it
//! prints numbers.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// A method that the engine does not know, on a value of any type.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(result) = text_method(text, name, args)
    {
        let result = result?;
        // What a method makes is charged like what the engine makes: a unit for 64 bytes.
        state.consume_fuel(1 + text.len() as u64 / 16)?;
        return Ok(result);
    }
    match (value.kind(), name) {
        (ValueKind::Map, "copy") | (ValueKind::Seq, "copy") => Ok(value.clone()),
        (ValueKind::Seq, "index") => {
            let (wanted,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == *wanted);
            let missing = || Error::new(ErrorKind::InvalidOperation, format!("{wanted} is not in the list"));
            at.map(Value::from).ok_or_else(missing)
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// String methods that the compatibility layer lacks.
fn text_method(text: &str, name: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    Some(match name {
        "removeprefix" => {
            from_args(args).map(|(prefix,): (&str,)| Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            from_args(args).map(|(suffix,): (&str,)| Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "partition" => from_args(args).and_then(|(separator,): (&str,)| {
            let parts = text.split_once(not_empty(separator)?);
            let (before, after) = parts.unwrap_or((text, ""));
            let found = if parts.is_some() { separator } else { "" };
            Ok(Value::from((before, found, after)))
        }),
        "rpartition" => from_args(args).and_then(|(separator,): (&str,)| {
            let parts = text.rsplit_once(not_empty(separator)?);
            let (before, after) = parts.unwrap_or(("", text));
            let found = if parts.is_some() { separator } else { "" };
            Ok(Value::from((before, found, after)))
        }),
        "rsplit" => from_args(args).and_then(|(separator, limit): (Option<&str>, Option<i64>)| {
            let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
            rsplit(text, separator, limit)
        }),
        "index" => from_args(args).and_then(|(needle,): (&str,)| {
            let at = text.find(needle).map(|at| text[..at].chars().count());
            let missing =
                || Error::new(ErrorKind::InvalidOperation, format!("{needle:?} is not in the text"));
            at.map(Value::from).ok_or_else(missing)
        }),
        "swapcase" => from_args(args).map(|()| {
            let swap = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }),
        _ => return None,
    })
}

fn not_empty(separator: &str) -> Result<&str, Error> {
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    Ok(separator)
}

fn rsplit(text: &str, separator: Option<&str>, limit: usize) -> Result<Value, Error> {
    let mut parts: Vec<&str> = match separator {
        Some(separator) => text.rsplitn(limit.saturating_add(1), not_empty(separator)?).collect(),
        None => {
            let mut parts = Vec::new();
            let mut rest = text.trim_end();
            while !rest.is_empty() && parts.len() < limit {
                let at = rest.rfind(char::is_whitespace);
                let space = at.and_then(|at| rest[at..].chars().next()).map_or(0, char::len_utf8);
                let start = at.map_or(0, |at| at + space);
                parts.push(&rest[start..]);
                rest = rest[..start].trim_end();
            }
            if !rest.is_empty() {
                parts.push(rest);
            }
            parts
        }
    };
    parts.reverse();
    Ok(Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>()))
}

/// A float as Python's `repr` prints it: shortest digits that read back, exponents below 1e-4 and from 1e16.
pub(super) fn float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let magnitude = x.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        // Rust prints `1e-7`, Python `1e-07`.
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').expect("this format has an exponent");
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = x.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_python_prints_them() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.25e100, "-1.25e+100"),
        ];
        for (x, text) in cases {
            assert_eq!(float(x), text);
        }
    }
}
