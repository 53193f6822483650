//! The reference page of the configuration, made from the fields themselves.

use std::fmt::Write;

use serde_json::Value;

use super::fields::{FIELDS, Section, ServeConfig};

/// `docs/reference/config.md`.
pub fn reference_page() -> String {
    let defaults = serde_json::to_value(ServeConfig::default()).unwrap_or(Value::Null);
    let mut page = String::from(
        "# Configuration of `wharf serve`\n\n\
         This page is generated from the configuration itself; a test fails when it is stale.\n\n\
         Every field can be set in a file, by environment variable and by flag. Flags win over the environment, \
         the environment over files, files over defaults. Empty environment variables count as unset. Unknown \
         fields in files are errors. All problems are reported at once, before a port is opened.\n",
    );
    for (section, title) in
        [(Section::Server, "`server_config.yaml`, under `server:`"), (Section::Model, "`model_config.json`")]
    {
        let _ = write!(
            page,
            "\n## {title}\n\n| field | type | default | environment | meaning |\n|---|---|---|---|---|\n"
        );
        for field in FIELDS.iter().filter(|field| field.section == section) {
            let default = match defaults.get(field.name) {
                None | Some(Value::Null) => "".to_owned(),
                Some(value) => format!("`{value}`"),
            };
            let mut env = match field.name {
                "version" => String::new(),
                _ => format!("`{}`", field.env()),
            };
            if let Some(alias) = field.env_alias {
                let _ = write!(env, ", `{alias}`");
            }
            let doc = field.doc.split_whitespace().collect::<Vec<_>>().join(" ");
            let kind = type_in_words(field.rust_type);
            let _ = writeln!(page, "| `{}` | {kind} | {default} | {env} | {doc} |", field.name);
        }
    }
    page.push_str("\n`version` stands at the top of `server_config.yaml`, beside `server:`.\n");
    page
}

fn type_in_words(rust_type: &str) -> &str {
    let inner =
        rust_type.strip_prefix("Option<").and_then(|rest| rest.strip_suffix('>')).unwrap_or(rust_type);
    match inner {
        "u16" | "u32" | "usize" => "integer",
        "f32" | "f64" => "number",
        "PathBuf" => "path",
        "bool" => "`true` or `false`",
        "ByteSize" => "bytes, or a size such as `512MiB`",
        "String" | "Secret" => "string",
        "Device" => "`auto`, `cpu`, `cuda` or `cuda:N`",
        "CpuPinning" => "`on` or `off`",
        "KvCacheDtype" => "`f16` or `int8`",
        "LogFormat" => "`json` or `text`",
        "Speculation" => "`auto`, `off`, or a number up to 16",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_words_for_users() {
        for field in FIELDS {
            let words = type_in_words(field.rust_type);
            assert!(!words.chars().any(char::is_uppercase) || words.contains('`'), "{}: {words}", field.name);
        }
    }
}
