//! Text sides and shapes that go to the other format and come back, and those that must not go.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wharf_testkit::TinyModel;
use wharf_testkit::gguf::{Builder, Value as GgufValue};

use super::*;
use crate::chat_template::ChatTemplate;
use crate::gguf::write::layout;
use crate::gguf::{Metadata, parse};
use crate::tokenizer::{EncodeOptions, Tokenizer};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn gguf(&self, change: impl FnOnce(&mut Builder)) -> Model {
        let path = self.0.path().join("tiny.gguf");
        let mut file = TinyModel::default().build();
        change(&mut file);
        fs::write(&path, file.bytes()).unwrap();
        Model::open(&path).unwrap()
    }

    /// The text side of the tiny model as a folder.
    fn folder(&self) -> PathBuf {
        let folder = self.0.path().join("folder");
        fs::create_dir(&folder).unwrap();
        for (name, bytes) in text_files(&self.gguf(|_| {})).unwrap() {
            fs::write(folder.join(name), bytes).unwrap();
        }
        folder
    }
}

/// Gives a key of the tiny model another value.
fn put(file: &mut Builder, key: &str, value: impl Into<GgufValue>) {
    file.metadata.retain(|(other, _)| other != key);
    file.set(key, value);
}

fn metadata_of(entries: &[Entry]) -> Metadata {
    parse(&layout(entries, &[]).header).unwrap().metadata
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn file<'a>(files: &'a [(String, Vec<u8>)], name: &str) -> &'a [u8] {
    &files.iter().find(|(other, _)| other == name).unwrap().1
}

const TEXT: &str = "The 12345 thing's\n\n  other <|im_end|> \u{e9}";
const OPTIONS: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

#[test]
fn every_splitting_that_can_be_written_gives_the_same_tokens() {
    for pre in ["gpt-2", "smollm", "llama-bpe", "qwen2"] {
        let place = Place::new();
        let model = place.gguf(|file| put(file, "tokenizer.ggml.pre", pre));
        let Source::Gguf(metadata) = &model.source else { unreachable!("it is a GGUF file") };
        let files = text_files(&model).unwrap_or_else(|error| panic!("{pre}: {error}"));
        let (tokenizer, config) = (file(&files, "tokenizer.json"), file(&files, "tokenizer_config.json"));
        let found = Tokenizer::from_hf(tokenizer, Some(config)).unwrap();
        let original = Tokenizer::from_gguf(metadata).unwrap();
        assert_eq!(found.encode(TEXT, OPTIONS), original.encode(TEXT, OPTIONS), "{pre}");
        assert_eq!(found.eos(), original.eos());
        let template = ChatTemplate::from_hf(Some(config), None).unwrap().unwrap();
        assert!(template.sources().next().unwrap().1.contains("im_start"));
    }
}

#[test]
fn what_a_folder_cannot_say_is_refused() {
    type Change = fn(&mut Builder);
    let changes: [(&str, Change); 3] = [
        ("the pre-tokenizer \"default\"", |file| put(file, "tokenizer.ggml.pre", "default")),
        ("the chat template", |file| put(file, "tokenizer.chat_template", "{% if")),
        ("see only a window", |file| put(file, "llama.attention.sliding_window", GgufValue::U32(8))),
    ];
    for (complaint, change) in changes {
        let model = Place::new().gguf(change);
        let error = to_hf(&model).unwrap_err();
        let named = error.to_string().contains(complaint);
        assert!(named && matches!(error, ExportError::Unsupported { .. }), "{complaint}: {error}");
    }
}

#[test]
fn rotations_that_are_slowed_down_are_said_in_config_json() {
    let place = Place::new();
    let model = place.gguf(|file| {
        put(file, "llama.rope.scaling.type", "linear");
        put(file, "llama.rope.scaling.factor", GgufValue::F32(2.5));
    });
    let config = config_json(&model).unwrap();
    assert_eq!(config["rope_scaling"], json!({"rope_type": "linear", "factor": 2.5}));
    assert_eq!(config["rms_norm_eps"], json!(1e-5));
    let path = place.0.path().join("config.json");
    fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
    let read = Model::read_config(&path).unwrap();
    assert_eq!((read.ropes, read.norm_eps), (model.config.ropes, model.config.norm_eps));
}

#[test]
fn named_templates_are_kept_in_both_directions() {
    let place = Place::new();
    let folder = place.folder();
    let named = json!([{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]);
    edit(&folder.join("tokenizer_config.json"), |config| config["chat_template"] = named.clone());
    let metadata = metadata_of(&tokenizer::to_gguf(&folder).unwrap());
    assert_eq!(metadata.str("tokenizer.chat_template"), Some("a"));
    assert_eq!(metadata.str("tokenizer.chat_template.tool_use"), Some("b"));
    assert_eq!(template::to_hf(&metadata).unwrap(), named);
    fs::write(folder.join("chat_template.jinja"), "c").unwrap();
    let metadata = metadata_of(&tokenizer::to_gguf(&folder).unwrap());
    assert_eq!(metadata.str("tokenizer.chat_template"), Some("c"), "the file goes before the configuration");
}

#[test]
fn a_chat_template_that_cannot_be_read_is_not_taken_for_absent() {
    let folder = Place::new();
    let path = folder.folder();
    fs::create_dir(path.join("chat_template.jinja")).unwrap();
    let error = tokenizer::to_gguf(&path).unwrap_err();
    let named = error.to_string().contains("chat_template.jinja");
    assert!(matches!(error, ExportError::Read { .. }) && named, "{error}");
}

#[test]
fn a_tokenizer_that_would_split_differently_is_refused() {
    let place = Place::new();
    let folder = place.folder();
    tokenizer::to_gguf(&folder).unwrap();
    // GGUF has no word for a token that swallows the space before it.
    edit(&folder.join("tokenizer.json"), |root| {
        for token in root["added_tokens"].as_array_mut().unwrap() {
            token["lstrip"] = json!(true);
        }
    });
    let error = tokenizer::to_gguf(&folder).unwrap_err();
    assert!(error.to_string().contains("split text differently"), "{error}");
}

/// A tokenizer of SentencePiece's kind, and texts with what Hugging Face's library makes of them.
fn pieces(name: &str) -> (PathBuf, Vec<(String, Vec<u32>)>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers").join(name);
    let expected: Value = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let case = |case: &Value| {
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        (case["text"].as_str().unwrap().to_owned(), ids)
    };
    (folder, expected["cases"].as_array().unwrap().iter().map(case).collect())
}

#[test]
fn pieces_with_scores_become_merges_and_merges_scores() {
    let text = EncodeOptions { add_special: false, parse_special: true };
    for (name, space) in [("llama", true), ("gemma", false)] {
        let (folder, cases) = pieces(name);
        let metadata = metadata_of(&tokenizer::to_gguf(&folder).unwrap());
        assert_eq!(metadata.bool("tokenizer.ggml.add_space_prefix"), Some(space));
        let as_gguf = Tokenizer::from_gguf(&metadata).unwrap();
        let files = tokenizer::to_hf(&metadata).unwrap();
        let config = file(&files, "tokenizer_config.json");
        let back = Tokenizer::from_hf(file(&files, "tokenizer.json"), Some(config)).unwrap();
        assert!(cases.len() > 40);
        for (case, ids) in cases {
            assert_eq!(as_gguf.encode(&case, text), ids, "{name} as GGUF: {case:?}");
            assert_eq!(back.encode(&case, text), ids, "{name} and back: {case:?}");
            assert_eq!(back.decode(&ids, true), as_gguf.decode(&ids, true), "{name}: {case:?}");
        }
        assert_eq!(back.eos(), as_gguf.eos());
        assert!(back.adds_bos());
    }
}

#[test]
fn merges_that_no_scores_stand_for_are_refused() {
    let (folder, _) = pieces("llama");
    let place = Place::new();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(folder.join(name), place.0.path().join(name)).unwrap();
    }
    assert!(tokenizer::to_gguf(place.0.path()).is_ok());
    edit(&place.0.path().join("tokenizer.json"), |root| {
        root["model"]["merges"].as_array_mut().unwrap().pop();
    });
    let error = tokenizer::to_gguf(place.0.path()).unwrap_err();
    assert!(error.to_string().contains("nor has SentencePiece's merges"), "{error}");
}

#[test]
fn a_gguf_files_text_side_is_taken_as_it_is() {
    let place = Place::new();
    let model = place.gguf(|file| {
        put(file, "tokenizer.ggml.model", "llama");
        put(file, "tokenizer.ggml.of_its_own", GgufValue::U32(7));
    });
    let entries = gguf_text(&model).unwrap();
    assert!(entries.iter().all(|entry| entry.key.starts_with("tokenizer.")));
    let metadata = metadata_of(&entries);
    assert_eq!(metadata.str("tokenizer.ggml.model"), Some("llama"));
    assert_eq!(metadata.u64("tokenizer.ggml.of_its_own"), Some(7));
    assert!(metadata.str("tokenizer.chat_template").is_some());
}
