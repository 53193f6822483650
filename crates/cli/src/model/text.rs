//! Reads the text side of a checkpoint, tokenizer and chat template, from where the model was found.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use wharf_model::{ChatTemplate, Source, Tokenizer};

/// What turns conversations into tokens and back.
pub(crate) struct TextSide {
    pub(crate) tokenizer: Tokenizer,
    /// `None` for models that were not made for conversations.
    pub(crate) chat_template: Option<ChatTemplate>,
    /// Algorithm and pre-tokenizer as the files name them.
    pub(crate) kind: String,
}

impl TextSide {
    /// Reads what `source` points to.
    pub(crate) fn read(source: &Source) -> anyhow::Result<TextSide> {
        match source {
            Source::Gguf(metadata) => {
                let named = |key| metadata.str(key).unwrap_or("unnamed");
                Ok(TextSide {
                    tokenizer: Tokenizer::from_gguf(metadata)
                        .context("failed to read the tokenizer of the GGUF file")?,
                    chat_template: ChatTemplate::from_gguf(metadata)
                        .context("failed to read the chat template of the GGUF file")?,
                    kind: format!("{}, {}", named("tokenizer.ggml.model"), named("tokenizer.ggml.pre")),
                })
            }
            Source::Folder(folder) => read_folder(folder),
        }
    }
}

fn read_folder(folder: &Path) -> anyhow::Result<TextSide> {
    let path = folder.join("tokenizer.json");
    let tokenizer = std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let config = read_if_there(folder.join("tokenizer_config.json"))?;
    let template = match read_if_there(folder.join("chat_template.jinja"))? {
        Some(bytes) => Some(String::from_utf8(bytes).context("chat_template.jinja is not UTF-8")?),
        None => None,
    };
    let within = || format!("in {}", folder.display());
    Ok(TextSide {
        tokenizer: Tokenizer::from_hf(&tokenizer, config.as_deref()).with_context(within)?,
        chat_template: ChatTemplate::from_hf(config.as_deref(), template.as_deref()).with_context(within)?,
        kind: kind_in(&tokenizer),
    })
}

fn read_if_there(path: PathBuf) -> anyhow::Result<Option<Vec<u8>>> {
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("failed to read {}", path.display())),
    }
}

/// `model.type` of a `tokenizer.json` that has been read successfully before.
fn kind_in(tokenizer_json: &[u8]) -> String {
    let kind = serde_json::from_slice::<serde_json::Value>(tokenizer_json)
        .ok()
        .and_then(|json| Some(json.pointer("/model/type")?.as_str()?.to_owned()));
    kind.unwrap_or_else(|| "unnamed".into())
}
