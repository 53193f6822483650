//! Tables made to break a reader: each gives an error that says what is wrong, none a panic or a hang.

use serde_json::json;

use super::*;

fn gpt2(tokens: &[&str], merges: &[&str]) -> Metadata {
    let texts =
        |list: &[&str]| Value::Array(Array::Str(list.iter().map(|text| (*text).to_owned()).collect()));
    let entries = [
        ("tokenizer.ggml.model", Value::Str("gpt2".into())),
        ("tokenizer.ggml.pre", Value::Str("gpt-2".into())),
        ("tokenizer.ggml.tokens", texts(tokens)),
        ("tokenizer.ggml.merges", texts(merges)),
    ];
    Metadata(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn with(mut meta: Metadata, key: &str, value: Value) -> Metadata {
    meta.0.insert(key.to_owned(), value);
    meta
}

fn gguf_error(meta: &Metadata) -> String {
    Tokenizer::from_gguf(meta).unwrap_err().to_string()
}

#[test]
fn contradictory_gguf_tables_are_refused_by_name() {
    let good = gpt2(&["a", "b", "ab"], &["a b"]);
    assert!(Tokenizer::from_gguf(&good).is_ok());
    let cases = [
        (Metadata::default(), "tokenizer.ggml.model"),
        (gpt2(&[], &[]), "it has no tokens"),
        (gpt2(&["a", "b", "a"], &[]), "tokens 0 and 2 are both \"a\""),
        (gpt2(&["a", "b"], &["a b"]), "needs \"ab\", which is not a token"),
        (gpt2(&["a", "b"], &["a c"]), "needs \"c\", which is not a token"),
        (gpt2(&["a", "b"], &["ab"]), "has no space"),
        (gpt2(&["a", "b"], &[""]), "has no space"),
        (
            with(good.clone(), "tokenizer.ggml.pre", Value::Str("nonsense".into())),
            "\"nonsense\" is not supported",
        ),
        (with(good.clone(), "tokenizer.ggml.pre", Value::Str("nonsense".into())), "qwen2"),
        (with(good.clone(), "tokenizer.ggml.model", Value::Str("bert".into())), "supported: gpt2, llama"),
        (with(good.clone(), "tokenizer.ggml.eos_token_id", Value::U64(u64::MAX)), "there are 3 tokens"),
        (with(good.clone(), "tokenizer.ggml.bos_token_id", Value::U64(3)), "there are 3 tokens"),
        (
            with(good.clone(), "tokenizer.ggml.token_type", Value::Array(Array::I64(vec![1]))),
            "1 types for 3 tokens",
        ),
        (
            with(good.clone(), "tokenizer.ggml.token_type", Value::Array(Array::I64(vec![1, 1, 99]))),
            "token 2 has the unknown type 99",
        ),
        (with(good.clone(), "tokenizer.ggml.token_type", Value::Str("1".into())), "not an array"),
        (with(good.clone(), "tokenizer.ggml.model", Value::Str("llama".into())), "tokenizer.ggml.scores"),
        (
            with(
                with(good, "tokenizer.ggml.model", Value::Str("llama".into())),
                "tokenizer.ggml.scores",
                Value::Array(Array::F32(vec![0.0])),
            ),
            "1 scores for 3 tokens",
        ),
    ];
    for (meta, wanted) in cases {
        let error = gguf_error(&meta);
        assert!(error.contains(wanted), "{error:?} lacks {wanted:?}");
    }
}

#[test]
fn not_a_number_scores_and_empty_tokens_do_no_harm() {
    let meta = with(
        with(gpt2(&["a", "b", "ab", "", ""], &[]), "tokenizer.ggml.model", Value::Str("llama".into())),
        "tokenizer.ggml.scores",
        Value::Array(Array::F32(vec![f32::NAN, f32::INFINITY, f32::NAN, 0.0, 0.0])),
    );
    let tokenizer = Tokenizer::from_gguf(&meta).unwrap();
    assert_eq!(tokenizer.encode("abab", PLAIN), [2, 2]);
    assert_eq!(tokenizer.decode(&[2, 3, 4, u32::MAX], false), "ab");
}

fn file(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut file = json!({
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    });
    change(&mut file);
    file.to_string()
}

fn hf_error(file: &str) -> String {
    let error = Tokenizer::from_hf(file.as_bytes(), None).unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

#[test]
fn contradictory_json_tables_are_refused_by_name() {
    assert!(Tokenizer::from_hf(file(|_| {}).as_bytes(), None).is_ok());
    let added = |id: u64, content: &str| json!([{"id": id, "content": content, "special": true}]);
    let cases = [
        ("".to_owned(), "tokenizer.json"),
        ("[]".to_owned(), "tokenizer.json"),
        (
            file(|f| f["model"] = json!({"type": "Unigram", "vocab": [["a", 0.0]]})),
            "\"Unigram\" is not supported",
        ),
        (file(|f| f["model"] = json!({"vocab": [["a", 0.0]]})), "\"Unigram\" is not supported"),
        (
            file(|f| f["model"] = json!({"type": "WordPiece", "vocab": {"a": 0}})),
            "\"WordPiece\" is not supported",
        ),
        (file(|f| f["model"]["vocab"] = json!({})), "it has no tokens"),
        (file(|f| f["model"]["vocab"]["b"] = json!(0)), "id 0 is both \"a\" and \"b\""),
        (file(|f| f["model"]["vocab"]["b"] = json!(4294967295u64)), "id 4294967295 for 3 tokens"),
        (file(|f| f["model"]["vocab"]["b"] = json!(3_000_000)), "id 3000000 for 3 tokens"),
        (file(|f| f["model"]["vocab"]["b"] = json!(-1)), "tokenizer.json"),
        (file(|f| f["model"]["merges"] = json!([["a", "c"]])), "needs \"c\", which is not a token"),
        (file(|f| f["model"]["merges"] = json!(["ab"])), "a merge is not two texts"),
        (file(|f| f["model"]["merges"] = json!([["a"]])), "a merge is not a pair"),
        (file(|f| f["model"]["unk_token"] = json!("?")), "unk_token \"?\" is not a token"),
        (file(|f| f["model"]["dropout"] = json!(0.5)), "\"dropout\" is not supported"),
        (file(|f| f["added_tokens"] = added(0, "x")), "id 0 is \"a\", not \"x\""),
        (file(|f| f["added_tokens"] = added(4_294_967_295, "x")), "id 4294967295"),
        (file(|f| f["added_tokens"] = added(3, "a")), "tokens 0 and 3 are both \"a\""),
        (file(|f| f["normalizer"] = json!({"type": "Precompiled"})), "\"Precompiled\" is not supported"),
        (
            file(|f| f["pre_tokenizer"] = json!({"type": "UnicodeScripts"})),
            "\"UnicodeScripts\" is not supported",
        ),
        (file(|f| f["pre_tokenizer"] = json!({})), "no text \"type\""),
        (file(|f| f["decoder"] = json!({"type": "CTC"})), "\"CTC\" is not supported"),
        (
            file(|f| {
                f["pre_tokenizer"] =
                    json!({"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "("}})
            }),
            "failed to compile",
        ),
        (
            file(|f| {
                f["post_processor"] = json!({"type": "TemplateProcessing", "special_tokens": {}, "single":
                    [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]});
            }),
            "does not define its token \"<s>\"",
        ),
        (
            file(|f| {
                f["post_processor"] = json!({"type": "BertProcessing", "cls": ["x", 9], "sep": ["x", 0]})
            }),
            "not in the vocabulary",
        ),
    ];
    for (file, wanted) in cases {
        let error = hf_error(&file);
        assert!(error.contains(wanted), "{error:?} lacks {wanted:?}");
    }
}

#[test]
fn deep_nesting_is_refused() {
    let mut nested = json!({"type": "NFC"});
    for _ in 0..500 {
        nested = json!({"type": "Sequence", "normalizers": [nested]});
    }
    assert!(hf_error(&file(|f| f["normalizer"] = nested)).contains("recursion limit"));
    let wide = json!({"type": "Sequence", "normalizers": vec![json!({"type": "NFC"}); 1000]});
    assert!(hf_error(&file(|f| f["normalizer"] = wide)).contains("more than 64 parts"));
}

#[test]
fn a_catastrophic_pattern_leaves_the_text_in_one_piece() {
    let text = file(|f| {
        f["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex": r"(?:(a+)+)\1(?=c)"}},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
        ]});
    });
    let tokenizer = Tokenizer::from_hf(text.as_bytes(), None).unwrap();
    assert_eq!(tokenizer.encode(&"a".repeat(10_000), PLAIN).len(), 10_000);
}

#[test]
fn many_added_tokens_are_matched_in_linear_time() {
    let added: Vec<_> = (0..20_000)
        .map(|i| json!({"id": 3 + i, "content": "a".repeat(1 + i % 200) + &i.to_string()}))
        .collect();
    let text = file(|f| f["added_tokens"] = json!(added));
    let tokenizer = Tokenizer::from_hf(text.as_bytes(), None).unwrap();
    assert_eq!(tokenizer.encode(&"a".repeat(1 << 20), TEXT).len(), 1 << 20);
}

#[test]
fn arbitrary_bytes_never_panic() {
    let seeds: Vec<Vec<u8>> = names()
        .iter()
        .map(|name| read(&fixtures().join("tokenizers").join(name).join("tokenizer.json")))
        .collect();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    });
    let strategy = (
        0..seeds.len(),
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        "[\\[\\]{}\",:a0-9-]{0,4}",
    );
    runner
        .run(&strategy, |(seed, from, to, patch)| {
            let mut bytes = seeds[seed].clone();
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            // Half of the cuts are small, so that what remains is mostly still a tokenizer.
            let to = if to % 2 == 0 { (from + to % 8).min(bytes.len()) } else { from.max(to) };
            bytes.splice(from..to, patch.bytes());
            if let Ok(tokenizer) = Tokenizer::from_hf(&bytes, None) {
                let ids = tokenizer.encode("Hello <|bos|> wörld 12", FRAMED);
                tokenizer.decode(&ids, true);
            }
            Ok(())
        })
        .unwrap();
}
