//! The `tojson` filter as Hugging Face defines it: Python's `json.dumps`, without HTML escapes.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::python::float;

/// Deepest nesting printed. JSON input is at most 128 deep; what templates build beyond that is hostile.
const MAX_DEPTH: usize = 256;

/// How to print.
struct Style {
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

/// `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`
pub(super) fn to_json(
    state: &State<'_, '_>,
    value: &Value,
    ensure_ascii: Option<bool>,
    args: Kwargs,
) -> Result<String, Error> {
    let ascii = match ensure_ascii {
        Some(ascii) => ascii,
        None => args.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    let indent = args.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none());
    let indent = indent.map(|indent| match indent.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(indent.as_usize().unwrap_or(0).min(64)),
    });
    let separators = args.get::<Option<Value>>("separators")?.filter(|pair| !pair.is_none());
    let (item, key) = match separators {
        Some(pair) => {
            let part = |at: usize| pair.get_item_by_index(at).map(|part| part.to_string());
            (part(0)?, part(1)?)
        }
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let sort_keys = args.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    args.assert_all_used()?;
    let style = Style { ascii, indent, item, key, sort_keys };
    let mut out = String::new();
    style.write(state, &mut out, value, 0)?;
    Ok(out)
}

impl Style {
    fn write(
        &self,
        state: &State<'_, '_>,
        out: &mut String,
        value: &Value,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "value is nested too deeply for tojson"));
        }
        state.consume_fuel(1)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
            ValueKind::Number => out.push_str(&float(f64::try_from(value.clone())?)),
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default();
                state.consume_fuel(text.len() as u64 / 64)?;
                self.string(out, text);
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.block(out, ['[', ']'], depth, items.len(), |out, at| {
                    self.write(state, out, &items[at], depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.block(out, ['{', '}'], depth, keys.len(), |out, at| {
                    self.map_key(out, &keys[at])?;
                    out.push_str(&self.key);
                    self.write(state, out, &value.get_item(&keys[at])?, depth + 1)
                })?;
            }
            kind => {
                let reason = format!("tojson cannot print a value of type {kind}");
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
        }
        Ok(())
    }

    /// `count` parts between brackets, each on its own line when indenting.
    fn block(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        depth: usize,
        count: usize,
        mut part: impl FnMut(&mut String, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        for at in 0..count {
            if at > 0 {
                out.push_str(&self.item);
            }
            self.line(out, depth + 1);
            part(out, at)?;
        }
        if count > 0 {
            self.line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    /// JSON keys are texts; Python prints other scalars as their JSON.
    fn map_key(&self, out: &mut String, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(out, key.as_str().unwrap_or_default()),
            ValueKind::None => self.string(out, "null"),
            ValueKind::Bool => self.string(out, if key.is_true() { "true" } else { "false" }),
            ValueKind::Number if key.is_integer() => self.string(out, &key.to_string()),
            ValueKind::Number => self.string(out, &float(f64::try_from(key.clone())?)),
            kind => {
                let reason = format!("tojson cannot print a key of type {kind}");
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
        }
        Ok(())
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ascii && !matches!(c, ' '..='~')) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}
