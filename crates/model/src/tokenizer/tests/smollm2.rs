//! The tokenizer and chat template of the real SmolLM2-135M-Instruct, when its GGUF file is at hand.

use super::*;
use crate::{ChatInput, ChatTemplate};

#[derive(serde::Deserialize)]
struct Expected {
    cases: Vec<Case>,
    prompt: String,
}

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a developer names the model file for this test")]
fn the_real_smollm2_equals_hugging_face() {
    let Some(path) = std::env::var_os("WHARF_TEST_SMOLLM2") else {
        let in_ci = matches!(std::env::var("CI").as_deref(), Ok("true" | "1"));
        assert!(
            !in_ci,
            "in CI this test must run: set WHARF_TEST_SMOLLM2 to SmolLM2-135M-Instruct's GGUF file"
        );
        println!("SKIPPED: set WHARF_TEST_SMOLLM2 to SmolLM2-135M-Instruct's GGUF file to run this test");
        return;
    };
    let meta = crate::gguf::parse(&read(Path::new(&path))).unwrap().metadata;
    let tokenizer = Tokenizer::from_gguf(&meta).unwrap();
    let Expected { cases, prompt } = serde_json::from_slice(&read(&fixtures().join("smollm2.json"))).unwrap();
    assert!(cases.len() > 40);
    for Case { text, ids } in cases {
        assert_eq!(tokenizer.encode(&text, TEXT), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false), text);
    }
    let template = ChatTemplate::from_gguf(&meta).unwrap().unwrap();
    let messages = serde_json::json!([
        {"role": "system", "content": "You are 🤖."},
        {"role": "user", "content": "1 < 2 & \"3\" > '2'?"},
        {"role": "assistant", "content": "Yes.\n\nIndeed."},
        {"role": "user", "content": "谢谢"},
    ]);
    let input = ChatInput { add_generation_prompt: true, ..ChatInput::new(&messages) };
    assert_eq!(template.render(&input).unwrap(), prompt);
}
