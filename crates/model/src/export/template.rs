//! Decides where chat templates are in the other format. Neither side changes a template, and one that does not parse is refused: it
//! would be found out only by the first conversation.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::gguf::unsupported as no_gguf;
use super::hf::unsupported as no_hf;
use super::{ExportError, bytes};
use crate::chat_template::{ChatTemplate, ChatTemplateError};
use crate::gguf::Metadata;
use crate::gguf::write::Entry;

/// The name of the template that needs none.
const DEFAULT: &str = "default";

/// Keys of the templates of a folder whose tokenizer_config.json is `config`.
pub(super) fn to_gguf(folder: &Path, config: &Map<String, Value>) -> Result<Vec<Entry>, ExportError> {
    let path = folder.join("chat_template.jinja");
    let jinja = match fs::read_to_string(&path) {
        Ok(template) => Some(template),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(source) => return Err(ExportError::Read { path: path.display().to_string(), source }),
    };
    let refuse = |error: ChatTemplateError| no_gguf(format!("the chat template ({error})"));
    let Some(templates) = ChatTemplate::from_hf(Some(&bytes(config)), jinja.as_deref()).map_err(refuse)?
    else {
        return Ok(Vec::new());
    };
    let key = |name: &str| match name {
        DEFAULT => "tokenizer.chat_template".to_owned(),
        name => format!("tokenizer.chat_template.{name}"),
    };
    let mut entries: Vec<Entry> =
        templates.sources().map(|(name, source)| Entry::new(key(name), source)).collect();
    let others: Vec<String> =
        templates.sources().map(|(name, _)| name.to_owned()).filter(|name| name != DEFAULT).collect();
    if !others.is_empty() {
        entries.push(Entry::new("tokenizer.chat_templates", others.as_slice()));
    }
    Ok(entries)
}

/// `chat_template` of tokenizer_config.json.
pub(super) fn to_hf(metadata: &Metadata) -> Result<Value, ExportError> {
    let templates =
        ChatTemplate::from_gguf(metadata).map_err(|error| no_hf(format!("the chat template ({error})")))?;
    let Some(templates) = templates else { return Ok(Value::Null) };
    let all: Vec<(&str, &str)> = templates.sources().collect();
    Ok(match all[..] {
        [(DEFAULT, source)] => json!(source),
        _ => all.iter().map(|(name, template)| json!({"name": name, "template": template})).collect(),
    })
}
