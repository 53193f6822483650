//! Decides what a tokenizer is in the other format: one that ends in bytes here, SentencePiece's in `pieces`.
//!
//! A conversion is read again and must give the tokens of the original on a text full of the cases that differ.

mod pieces;

use std::path::Path;

use serde_json::{Map, Value, json};

use super::gguf::unsupported as no_gguf;
use super::hf::{pretty, unsupported as no_hf};
use super::{ExportError, bytes, json as read_json, optional_json, template};
use crate::gguf::write::{Entry, layout, set};
use crate::gguf::{self, Metadata};
use crate::tokenizer::{EncodeOptions, Tokenizer, pre};

/// Types of tokens in GGUF.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Keys of the tokenizer and chat template of a folder.
pub(super) fn to_gguf(folder: &Path) -> Result<Vec<Entry>, ExportError> {
    let root = read_json(&folder.join("tokenizer.json"))?;
    let config = optional_json(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    let tokenizer = Tokenizer::from_hf(&bytes(&root), Some(&bytes(&config)))
        .map_err(|error| no_gguf(format!("the tokenizer ({error})")))?;
    let (texts, types) = tokens(&root, tokenizer.vocab_size());
    let (mut entries, spaces, sample) = match tokenizer.gguf_pre() {
        Some(pre) => {
            let merges: Vec<String> =
                pairs(&root).into_iter().map(|(left, right)| format!("{left} {right}")).collect();
            let tables = vec![
                Entry::new("tokenizer.ggml.model", "gpt2"),
                Entry::new("tokenizer.ggml.pre", pre),
                Entry::new("tokenizer.ggml.tokens", texts.as_slice()),
                Entry::new("tokenizer.ggml.token_type", types.as_slice()),
                Entry::new("tokenizer.ggml.merges", merges.as_slice()),
            ];
            (tables, vec![false], String::new())
        }
        None => {
            let tables = pieces::to_gguf(&root, &tokenizer, (texts, types)).ok_or_else(|| {
                no_gguf("a tokenizer that neither ends in bytes nor has SentencePiece's merges, or splits text in a way without a name")
            })?;
            (tables, vec![true, false], pieces::all(&tokenizer))
        }
    };
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
    entries.extend(template::to_gguf(folder, &config)?);
    // Which of them it is shows in what comes of it.
    for space in spaces {
        set(&mut entries, "tokenizer.ggml.add_space_prefix", space);
        let header = layout(&entries, &[]).header;
        let written = gguf::parse(&header)
            .map_err(|source| ExportError::Gguf { path: "the new tokenizer".into(), source })?;
        let again = Tokenizer::from_gguf(&written.metadata)
            .map_err(|error| no_gguf(format!("the tokenizer (written, {error})")))?;
        if agree(&tokenizer, &again, &sample) {
            return Ok(entries);
        }
    }
    Err(no_gguf("a tokenizer that would split text differently there"))
}

/// Contractions, runs of spaces and digits, line ends, marks, other scripts, emoji, and control tokens.
const SAMPLE: &str = "It's 1234567 o'clock -- DON'T\tpanic!\r\n\n   indented  text \u{a0}\u{e9}\u{301} na\u{ef}ve \
    \u{4f60}\u{597d} \u{1f600} 3.14 foo_bar(x) {'a': [1, 2]}\n \n<|im_start|>user\nHi<|im_end|><|endoftext|></s> then<s>more";

/// Whether both give the same tokens of [`SAMPLE`] and `more`, with control tokens recognised and without.
fn agree(one: &Tokenizer, other: &Tokenizer, more: &str) -> bool {
    [true, false].into_iter().all(|special| {
        let options = EncodeOptions { add_special: special, parse_special: special };
        [SAMPLE, more].into_iter().all(|text| one.encode(text, options) == other.encode(text, options))
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

/// Merges as their sides.
fn pairs(root: &Map<String, Value>) -> Vec<(String, String)> {
    let list = root.get("model").and_then(|model| model.get("merges")).and_then(Value::as_array);
    let one = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
        pair => Some((pair.get(0)?.as_str()?.to_owned(), pair.get(1)?.as_str()?.to_owned())),
    };
    list.into_iter().flatten().filter_map(one).collect()
}

/// How a tokenizer.json splits text: the parts that differ between kinds of tokenizers.
struct Splitting {
    normalizer: Value,
    pre_tokenizer: Value,
    /// The post-processor where no begin token goes before a text.
    unframed: Value,
    decoder: Value,
    model: Value,
}

/// Files of the text side of a GGUF file's metadata.
pub(super) fn to_hf(metadata: &Metadata) -> Result<Vec<(String, Vec<u8>)>, ExportError> {
    let tokenizer =
        Tokenizer::from_gguf(metadata).map_err(|error| no_hf(format!("the tokenizer ({error})")))?;
    let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap_or_default();
    let (splitting, sample) = match metadata.str("tokenizer.ggml.model") {
        Some("gpt2") => (byte_level(metadata, tokens)?, String::new()),
        _ => (pieces::to_hf(metadata, &tokenizer, tokens), pieces::all(&tokenizer)),
    };
    let Splitting { normalizer, pre_tokenizer, unframed, decoder, model } = splitting;
    let added: Vec<Value> = (0..tokens.len())
        .filter(|id| is_added(metadata, *id))
        .map(|id| {
            let special = type_of(metadata, id) != USER_DEFINED;
            json!({
                "id": id, "content": tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            })
        })
        .collect();
    let text = |id: Option<u32>| id.map(|id| tokens[id as usize].clone());
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
        None => unframed,
    };
    let tokenizer_json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": model,
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
    if !agree(&tokenizer, &again, &sample) {
        return Err(no_hf("a tokenizer that would split text differently there"));
    }
    Ok(vec![("tokenizer.json".into(), tokenizer_json), ("tokenizer_config.json".into(), config)])
}

/// A tokenizer that ends in bytes.
fn byte_level(metadata: &Metadata, tokens: &[String]) -> Result<Splitting, ExportError> {
    let name = metadata.str("tokenizer.ggml.pre").unwrap_or("default");
    let Some(pre::Json { normalizer, pre_tokenizer, ignore_merges }) = pre::json(name) else {
        return Err(no_hf(format!("the pre-tokenizer {name:?}")));
    };
    let merges: Vec<Value> = metadata
        .strings("tokenizer.ggml.merges")
        .unwrap_or_default()
        .iter()
        .filter_map(|merge| merge.split_once(' '))
        .map(|(left, right)| json!([left, right]))
        .collect();
    let vocab: Map<String, Value> = tokens
        .iter()
        .enumerate()
        .filter(|(id, _)| !is_added(metadata, *id))
        .map(|(id, text)| (text.clone(), json!(id)))
        .collect();
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    Ok(Splitting {
        normalizer,
        pre_tokenizer,
        unframed: bytes.clone(),
        decoder: bytes,
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
            "vocab": vocab, "merges": merges,
        }),
    })
}

/// Whether a token is looked for in text before anything else.
fn is_added(metadata: &Metadata, id: usize) -> bool {
    matches!(type_of(metadata, id), UNKNOWN | CONTROL | USER_DEFINED)
}

/// The type of a token; those that have none are ordinary.
fn type_of(metadata: &Metadata, id: usize) -> i32 {
    use crate::gguf::{Array, Value};
    let number = match metadata.get("tokenizer.ggml.token_type") {
        Some(Value::Array(Array::I64(types))) => types.get(id).copied(),
        Some(Value::Array(Array::U64(types))) => types.get(id).and_then(|n| i64::try_from(*n).ok()),
        _ => None,
    };
    number.and_then(|number| i32::try_from(number).ok()).unwrap_or(NORMAL)
}
