//! Decides how a GGUF file's byte-level tokenizer is said in Hugging Face's files.
//!
//! GGUF names the splitting of words (`tokenizer.ggml.pre`); tokenizer.json spells it out. Only names whose splitting is certain are
//! converted, and the result must give the tokens of the original on a text full of the cases that differ.

use serde_json::{Map, Value, json};
use wharf_model::gguf::{Array, Metadata, Value as GgufValue};
use wharf_model::{EncodeOptions, Tokenizer};

/// tokenizer.json and tokenizer_config.json.
pub(super) struct TokenizerFiles {
    pub(super) tokenizer: Value,
    pub(super) config: Value,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Types of tokens in GGUF (`llama_token_type`).
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Converts, or says why not.
pub(super) fn convert(metadata: &Metadata) -> Result<TokenizerFiles, String> {
    if metadata.str("tokenizer.ggml.model") != Some("gpt2") {
        return Err("it is not byte-level BPE".into());
    }
    let tokens = metadata.strings("tokenizer.ggml.tokens").ok_or("it lists no tokens")?;
    let merges = metadata.strings("tokenizer.ggml.merges").ok_or("it lists no merges")?;
    let pre = metadata.str("tokenizer.ggml.pre").unwrap_or("default");
    let (normalizer, pre_tokenizer, ignore_merges) = splitting(pre)?;
    let kinds: Vec<i64> = match metadata.get("tokenizer.ggml.token_type") {
        Some(GgufValue::Array(Array::I64(kinds))) => kinds.clone(),
        Some(GgufValue::Array(Array::U64(kinds))) => kinds.iter().map(|kind| *kind as i64).collect(),
        _ => return Err("it gives tokens no types".into()),
    };
    let vocab: Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let added: Vec<Value> = tokens
        .iter()
        .zip(&kinds)
        .enumerate()
        .filter(|(_, (_, kind))| matches!(**kind, CONTROL | USER_DEFINED))
        .map(|(id, (token, kind))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": *kind == CONTROL,
            })
        })
        .collect();
    let merges: Vec<Value> =
        merges.iter().filter_map(|merge| merge.split_once(' ')).map(|(a, b)| json!([a, b])).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges,
        },
    });
    let mut config =
        json!({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false});
    let object = config.as_object_mut().expect("made as an object");
    for (key, name) in
        [("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")]
    {
        let id = metadata.u64(&format!("tokenizer.ggml.{name}_token_id"));
        if let Some(token) = id.and_then(|id| tokens.get(usize::try_from(id).ok()?)) {
            object.insert(key.to_owned(), json!(token));
        }
    }
    if let Some(add) = metadata.bool("tokenizer.ggml.add_bos_token") {
        object.insert("add_bos_token".to_owned(), json!(add));
    }
    if let Some(template) = metadata.str("tokenizer.chat_template") {
        object.insert("chat_template".to_owned(), json!(template));
    }
    let files = TokenizerFiles { tokenizer, config };
    same(&files, metadata)?;
    Ok(files)
}

/// Normalizer, pre-tokenizer, and whether whole words that are tokens are not taken apart.
fn splitting(pre: &str) -> Result<(Value, Value, bool), String> {
    let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let by = |regex: &str| {
        let split =
            json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
    };
    match pre {
        "gpt-2" => Ok((Value::Null, byte_level(true), false)),
        "smollm" | "starcoder" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            Ok((Value::Null, json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]}), false))
        }
        "llama-bpe" => Ok((Value::Null, by(LLAMA3), true)),
        "qwen2" => Ok((json!({"type": "NFC"}), by(QWEN2), false)),
        other => Err(format!("how {other:?} splits words is not known to the converter")),
    }
}

/// Contractions, runs of spaces and digits, line ends, marks, other scripts, emoji.
const SAMPLE: &str = "It's 1234567 o'clock -- DON'T\tpanic!\r\n\n   indented  text \u{a0}\u{e9}\u{301} na\u{ef}ve \u{4f60}\u{597d} \u{1f600} 3.14 foo_bar(x) {'a': [1, 2]}\n \n";

fn same(files: &TokenizerFiles, metadata: &Metadata) -> Result<(), String> {
    let text = |value: &Value| value.to_string().into_bytes();
    let found = Tokenizer::from_hf(&text(&files.tokenizer), Some(&text(&files.config)))
        .map_err(|error| format!("its conversion is not readable: {error}"))?;
    let original = Tokenizer::from_gguf(metadata).map_err(|error| error.to_string())?;
    let options = EncodeOptions { add_special: true, parse_special: true };
    if found.encode(SAMPLE, options) == original.encode(SAMPLE, options) {
        return Ok(());
    }
    Err("its conversion splits a test text differently".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_model::{Model, Source};
    use wharf_testkit::TinyModel;

    #[test]
    fn a_converted_tokenizer_gives_the_same_tokens_and_unknown_ones_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        TinyModel::default().write(&path).unwrap();
        let Source::Gguf(mut metadata) = Model::open(&path).unwrap().source else {
            unreachable!("it is a GGUF file")
        };
        for pre in ["gpt-2", "smollm", "llama-bpe", "qwen2"] {
            metadata.0.insert("tokenizer.ggml.pre".into(), GgufValue::Str(pre.into()));
            let files = convert(&metadata).unwrap_or_else(|why| panic!("{pre}: {why}"));
            assert!(files.config["chat_template"].as_str().unwrap().contains("im_start"));
            assert_eq!(files.config["eos_token"], "<|im_end|>");
        }
        metadata.0.insert("tokenizer.ggml.pre".into(), GgufValue::Str("tekken".into()));
        assert!(convert(&metadata).is_err());
    }
}
