//! Decides what a byte-level tokenizer is in the other format. SentencePiece models are refused: tokenizer.json has lost the scores
//! that GGUF wants, and the way back would have to invent merges.
//!
//! A conversion is read again and must give the tokens of the original on a text full of the cases that differ.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::gguf::unsupported as no_gguf;
use super::hf::{pretty, unsupported as no_hf};
use super::{ExportError, bytes, json as read_json, optional_json, template};
use crate::gguf::write::{Entry, layout};
use crate::gguf::{self, Metadata};
use crate::tokenizer::{EncodeOptions, Tokenizer, pre};

/// Types of tokens in GGUF.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Keys of the tokenizer and chat template of a folder.
pub(super) fn to_gguf(folder: &Path) -> Result<Vec<Entry>, ExportError> {
    let root = read_json(&folder.join("tokenizer.json"))?;
    let config = optional_json(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    let tokenizer = Tokenizer::from_hf(&bytes(&root), Some(&bytes(&config)))
        .map_err(|error| no_gguf(format!("the tokenizer ({error})")))?;
    let pre = tokenizer.gguf_pre().ok_or_else(|| {
        no_gguf("a tokenizer that is not byte-level, or splits text in a way without a name")
    })?;
    let (tokens, types) = tokens(&root, tokenizer.vocab_size());
    let mut entries = vec![
        Entry::new("tokenizer.ggml.model", "gpt2"),
        Entry::new("tokenizer.ggml.pre", pre),
        Entry::new("tokenizer.ggml.tokens", tokens.as_slice()),
        Entry::new("tokenizer.ggml.token_type", types.as_slice()),
        Entry::new("tokenizer.ggml.merges", merges(&root).as_slice()),
    ];
    let ids = [
        ("bos", tokenizer.bos()),
        ("eos", tokenizer.eos()),
        ("unknown", tokenizer.unknown()),
        ("padding", tokenizer.padding()),
    ];
    for (name, id) in ids {
        if let Some(id) = id {
            entries.push(Entry::new(format!("tokenizer.ggml.{name}_token_id"), id));
        }
    }
    entries.push(Entry::new("tokenizer.ggml.add_bos_token", tokenizer.adds_bos()));
    entries.push(Entry::new("tokenizer.ggml.add_space_prefix", false));
    entries.extend(template::to_gguf(folder, &config)?);
    let header = layout(&entries, &[]).header;
    let written = gguf::parse(&header)
        .map_err(|source| ExportError::Gguf { path: "the new tokenizer".into(), source })?;
    let again = Tokenizer::from_gguf(&written.metadata)
        .map_err(|error| no_gguf(format!("the tokenizer (written, {error})")))?;
    if !agree(&tokenizer, &again) {
        return Err(no_gguf("a tokenizer that would split text differently there"));
    }
    Ok(entries)
}

/// Contractions, runs of spaces and digits, line ends, marks, other scripts, emoji, and control tokens.
const SAMPLE: &str = "It's 1234567 o'clock -- DON'T\tpanic!\r\n\n   indented  text \u{a0}\u{e9}\u{301} na\u{ef}ve \
    \u{4f60}\u{597d} \u{1f600} 3.14 foo_bar(x) {'a': [1, 2]}\n \n<|im_start|>user\nHi<|im_end|><|endoftext|></s>";

/// Whether both give the same tokens, with control tokens recognised and without.
fn agree(one: &Tokenizer, other: &Tokenizer) -> bool {
    [true, false].into_iter().all(|special| {
        let options = EncodeOptions { add_special: special, parse_special: special };
        one.encode(SAMPLE, options) == other.encode(SAMPLE, options)
    })
}

/// Texts and types by id; ids that no token has are unused.
fn tokens(root: &Map<String, Value>, size: usize) -> (Vec<String>, Vec<i32>) {
    let mut texts: Vec<String> = (0..size).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![UNUSED; size];
    let mut put = |id: Option<u64>, text: &str, kind: i32| {
        if let Some(id) = id.and_then(|id| usize::try_from(id).ok()).filter(|id| *id < size) {
            (texts[id], types[id]) = (text.to_owned(), kind);
        }
    };
    let vocab = root.get("model").and_then(|model| model.get("vocab")).and_then(Value::as_object);
    for (text, id) in vocab.into_iter().flatten() {
        put(id.as_u64(), text, NORMAL);
    }
    for token in root.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
        let text = token.get("content").and_then(Value::as_str).unwrap_or_default();
        put(token.get("id").and_then(Value::as_u64), text, if special { CONTROL } else { USER_DEFINED });
    }
    (texts, types)
}

/// Merges with their sides apart by a space.
fn merges(root: &Map<String, Value>) -> Vec<String> {
    let list = root.get("model").and_then(|model| model.get("merges")).and_then(Value::as_array);
    let one = |merge: &Value| match merge {
        Value::String(text) => Some(text.clone()),
        pair => Some(format!("{} {}", pair.get(0)?.as_str()?, pair.get(1)?.as_str()?)),
    };
    list.into_iter().flatten().filter_map(one).collect()
}

/// Files of the text side of a GGUF file's metadata.
pub(super) fn to_hf(metadata: &Metadata) -> Result<Vec<(String, Vec<u8>)>, ExportError> {
    let tokenizer =
        Tokenizer::from_gguf(metadata).map_err(|error| no_hf(format!("the tokenizer ({error})")))?;
    if metadata.str("tokenizer.ggml.model") != Some("gpt2") {
        return Err(no_hf("a SentencePiece tokenizer"));
    }
    let name = metadata.str("tokenizer.ggml.pre").unwrap_or("default");
    let Some(pre::Json { normalizer, pre_tokenizer, ignore_merges }) = pre::json(name) else {
        return Err(no_hf(format!("the pre-tokenizer {name:?}")));
    };
    let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap_or_default();
    let merges: Vec<Value> = metadata
        .strings("tokenizer.ggml.merges")
        .unwrap_or_default()
        .iter()
        .filter_map(|merge| merge.split_once(' '))
        .map(|(left, right)| json!([left, right]))
        .collect();
    let is_added = |id: usize| kind(metadata, id) != Kind::Normal;
    let vocab: Map<String, Value> = tokens
        .iter()
        .enumerate()
        .filter(|(id, _)| !is_added(*id))
        .map(|(id, text)| (text.clone(), json!(id)))
        .collect();
    let added: Vec<Value> = (0..tokens.len())
        .filter(|id| is_added(*id))
        .map(|id| {
            let special = kind(metadata, id) == Kind::Control;
            json!({
                "id": id, "content": tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            })
        })
        .collect();
    let text = |id: Option<u32>| id.map(|id| tokens[id as usize].clone());
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let post_processor = match text(tokenizer.bos()).filter(|_| tokenizer.adds_bos()) {
        Some(bos) => json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": bos, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {bos.clone(): {"id": bos, "ids": [tokenizer.bos()], "tokens": [bos]}},
        }),
        None => byte_level.clone(),
    };
    let tokenizer_json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
            "vocab": vocab, "merges": merges,
        },
    });
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "bos_token": text(tokenizer.bos()),
        "eos_token": text(tokenizer.eos()),
        "unk_token": text(tokenizer.unknown()),
        "pad_token": text(tokenizer.padding()),
        "chat_template": template::to_hf(metadata)?,
    });
    let (tokenizer_json, config) = (pretty(&tokenizer_json), pretty(&config));
    let again = Tokenizer::from_hf(&tokenizer_json, Some(&config))
        .map_err(|error| no_hf(format!("the tokenizer (written, {error})")))?;
    if !agree(&tokenizer, &again) {
        return Err(no_hf("a tokenizer that would split text differently there"));
    }
    Ok(vec![("tokenizer.json".into(), tokenizer_json), ("tokenizer_config.json".into(), config)])
}

#[derive(PartialEq, Eq)]
enum Kind {
    Normal,
    Control,
    UserDefined,
}

fn kind(metadata: &Metadata, id: usize) -> Kind {
    use crate::gguf::{Array, Value};
    let number = match metadata.get("tokenizer.ggml.token_type") {
        Some(Value::Array(Array::I64(types))) => types.get(id).copied(),
        Some(Value::Array(Array::U64(types))) => types.get(id).and_then(|n| i64::try_from(*n).ok()),
        _ => None,
    };
    match number {
        Some(2 | 3) => Kind::Control,
        Some(4 | 5) => Kind::UserDefined,
        _ => Kind::Normal,
    }
}
