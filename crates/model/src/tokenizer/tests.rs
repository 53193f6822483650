//! Small tokenizers trained and applied by Hugging Face's libraries, from both kinds of files, must be matched
//! exactly. `scripts/make_tokenizer_fixtures.py` writes what is compared with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::gguf::{Array, Metadata, Value};

const TEXT: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const FRAMED: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

#[derive(serde::Deserialize)]
struct Expected {
    framed: Vec<u32>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    decoded: String,
    skipped: Option<String>,
    plain: Option<Vec<u32>>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display()))
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&read(path)).unwrap()
}

fn names() -> Vec<String> {
    let folder = std::fs::read_dir(fixtures().join("tokenizers")).unwrap();
    let mut names: Vec<_> = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 17, "fixtures are missing: {names:?}");
    names
}

fn from_hf(name: &str) -> Tokenizer {
    let folder = fixtures().join("tokenizers").join(name);
    let config = read(&folder.join("tokenizer_config.json"));
    Tokenizer::from_hf(&read(&folder.join("tokenizer.json")), Some(&config)).unwrap()
}

/// The fixture's tables as GGUF metadata, `None` when GGUF has no name for such a tokenizer.
fn gguf_metadata(name: &str) -> Option<Metadata> {
    let folder = fixtures().join("tokenizers").join(name);
    if !folder.join("gguf.json").exists() {
        return None;
    }
    let (gguf, file) = (json(&folder.join("gguf.json")), json(&folder.join("tokenizer.json")));
    let mut tokens = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    for (text, id) in file["model"]["vocab"].as_object().unwrap() {
        tokens.insert(id.as_u64().unwrap(), text.clone());
    }
    for token in file["added_tokens"].as_array().unwrap() {
        let id = token["id"].as_u64().unwrap();
        tokens.insert(id, token["content"].as_str().unwrap().to_owned());
        kinds.insert(id, if token["special"].as_bool().unwrap() { 3 } else { 4 });
    }
    let count = tokens.len() as u64;
    let mut entries: Vec<(&str, Value)> = vec![
        ("tokenizer.ggml.model", Value::Str(gguf["model"].as_str().unwrap().into())),
        ("tokenizer.ggml.tokens", Value::Array(Array::Str(tokens.into_values().collect()))),
    ];
    let types = match gguf["token_type"].as_array() {
        Some(types) => types.iter().map(|n| n.as_i64().unwrap()).collect(),
        None => (0..count).map(|id| kinds.get(&id).copied().unwrap_or(1)).collect(),
    };
    entries.push(("tokenizer.ggml.token_type", Value::Array(Array::I64(types))));
    for (key, full) in
        [("bos_token_id", "tokenizer.ggml.bos_token_id"), ("eos_token_id", "tokenizer.ggml.eos_token_id")]
    {
        entries.push((full, Value::U64(gguf[key].as_u64().unwrap())));
    }
    entries.push(("tokenizer.ggml.add_bos_token", Value::Bool(gguf["add_bos_token"].as_bool().unwrap())));
    if let Some(space) = gguf["add_space_prefix"].as_bool() {
        entries.push(("tokenizer.ggml.add_space_prefix", Value::Bool(space)));
    }
    if let Some(architecture) = gguf["architecture"].as_str() {
        entries.push(("general.architecture", Value::Str(architecture.into())));
    }
    if let Some(scores) = gguf["scores"].as_array() {
        let scores = scores.iter().map(|score| score.as_f64().unwrap() as f32).collect();
        entries.push(("tokenizer.ggml.scores", Value::Array(Array::F32(scores))));
    } else {
        let side = |pair: &serde_json::Value, at: usize| pair[at].as_str().unwrap().to_owned();
        let merges = file["model"]["merges"].as_array().unwrap();
        let merges = merges.iter().map(|pair| side(pair, 0) + " " + &side(pair, 1)).collect();
        entries.push(("tokenizer.ggml.merges", Value::Array(Array::Str(merges))));
        entries.push(("tokenizer.ggml.pre", Value::Str(gguf["pre"].as_str().unwrap().into())));
    }
    Some(Metadata(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
}

/// All differences between a tokenizer and what the reference makes of the corpus.
fn differences(name: &str, tokenizer: &Tokenizer) -> Vec<String> {
    let path = fixtures().join("tokenizers").join(name).join("expected.json");
    let Expected { framed, cases } = serde_json::from_slice(&read(&path)).unwrap();
    assert!(cases.len() > 40);
    let mut found = Vec::new();
    let mut compare = |what: &str, text: &str, ours: String, reference: String| {
        if ours != reference {
            found.push(format!("{name}: {what} {text:?}\n  ours      {ours}\n  reference {reference}"));
        }
    };
    let show = |ids: &[u32]| -> String {
        ids.iter().map(|&id| format!("{id}:{:?} ", tokenizer.token_text(id))).collect()
    };
    compare("framed", "Hello", show(&tokenizer.encode("Hello", FRAMED)), show(&framed));
    for case in cases {
        let Case { text, ids, decoded, skipped, plain } = case;
        compare("encoded", &text, show(&tokenizer.encode(&text, TEXT)), show(&ids));
        let plain = plain.unwrap_or_else(|| ids.clone());
        compare("encoded as plain text", &text, show(&tokenizer.encode(&text, PLAIN)), show(&plain));
        compare("decoded", &text, tokenizer.decode(&ids, false), decoded.clone());
        compare("decoded without specials", &text, tokenizer.decode(&ids, true), skipped.unwrap_or(decoded));
    }
    found
}

fn assert_none(differences: Vec<String>) {
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn tokenizers_from_json_equal_hugging_face() {
    assert_none(names().iter().flat_map(|name| differences(name, &from_hf(name))).collect());
}

#[test]
fn tokenizers_from_gguf_equal_hugging_face() {
    let mut compared = 0;
    let mut found = Vec::new();
    for name in names() {
        if let Some(meta) = gguf_metadata(&name) {
            compared += 1;
            found.extend(differences(&name, &Tokenizer::from_gguf(&meta).unwrap()));
        }
    }
    assert!(compared >= 11, "only {compared} fixtures have GGUF tables");
    assert_none(found);
}

#[test]
fn streams_equal_decoding_the_whole() {
    for name in names() {
        let tokenizer = from_hf(&name);
        let size = tokenizer.vocab_size() as u32;
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(200)
        });
        let tokens = proptest::collection::vec(0..size + 2, 0..40);
        runner
            .run(&(tokens, any::<bool>()), |(tokens, skip_special)| {
                let mut stream = DecodeStream::new(&tokenizer, skip_special, StreamStart::Text);
                let mut text: String = tokens.iter().filter_map(|&token| stream.push(token)).collect();
                text.extend(stream.flush());
                prop_assert_eq!(text, tokenizer.decode(&tokens, skip_special), "{}", name);
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn any_text_survives_encoding_and_decoding() {
    // Those without normalisation and with all bytes lose nothing.
    for name in ["gpt2", "smollm", "llama3", "gpt4o", "tekken", "deepseek3", "llama", "gemma"] {
        let tokenizer = from_hf(name);
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(300)
        });
        runner
            .run(&"[^▁]{0,60}", |text| {
                let ids = tokenizer.encode(&text, PLAIN);
                prop_assert_eq!(tokenizer.decode(&ids, false), text, "{}", name);
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn a_stream_holds_incomplete_characters_back() {
    let tokenizer = from_hf("gpt2");
    let ids = tokenizer.encode("é\u{20}\u{1f9ff}", PLAIN);
    let mut stream = DecodeStream::new(&tokenizer, false, StreamStart::Continuation);
    let pieces: Vec<String> = ids.iter().filter_map(|&id| stream.push(id)).collect();
    assert!(pieces.len() < ids.len(), "{pieces:?} of {} tokens", ids.len());
    assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')));
    assert_eq!(pieces.concat(), "é \u{1f9ff}");
    assert_eq!(stream.flush(), None);
}

#[test]
fn a_stream_within_a_text_keeps_the_space_of_its_first_word() {
    let tokenizer = from_hf("llama");
    let ids = tokenizer.encode("Hello world", PLAIN);
    let all = |start| -> String {
        let mut stream = DecodeStream::new(&tokenizer, true, start);
        ids.iter().filter_map(|&id| stream.push(id)).collect()
    };
    assert_eq!(all(StreamStart::Text), "Hello world");
    assert_eq!(all(StreamStart::Continuation), " Hello world");
}

#[test]
fn special_tokens_are_found_by_their_text() {
    let tokenizer = from_hf("llama3");
    let bos = tokenizer.token_id("<|bos|>").unwrap();
    assert_eq!(tokenizer.bos(), Some(bos));
    assert!(tokenizer.is_special(bos));
    assert!(tokenizer.adds_bos());
    let user = tokenizer.token_id("<user_defined>").unwrap();
    assert!(!tokenizer.is_special(user));
    assert_eq!(tokenizer.eos().map(|eos| vec![eos]).as_deref(), Some(tokenizer.stop_tokens()));
    assert_eq!(tokenizer.token_text(user), "<user_defined>");
    let space = tokenizer.token_id(" ").unwrap();
    assert_eq!(tokenizer.token_bytes(space).as_ref(), b" ");
    assert_eq!(tokenizer.token_id("no such token"), None);
}

#[test]
fn a_megabyte_without_spaces_is_encoded_in_bounded_time() {
    // One of each kind: hand-written splitters, general expressions, byte and character symbols.
    for name in ["gpt2", "gpt4o", "deepseek3", "splitters", "gemma", "unknown"] {
        let tokenizer = from_hf(name);
        for unit in ["a", "the", "漢", " ", "\u{301}"] {
            let text = unit.repeat((1 << 20) / unit.len());
            let ids = tokenizer.encode(&text, TEXT);
            assert!(ids.len() <= text.len() + 1, "{name}");
        }
    }
}

mod hostile;
mod smollm2;
