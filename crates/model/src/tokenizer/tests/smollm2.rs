//! The tokenizer and chat template of the real SmolLM2-135M-Instruct, when its GGUF file is at hand.

use super::*;
use crate::{ChatInput, ChatTemplate};

/// Metadata of a GGUF file, without checks: the file that this test reads is known to be good.
fn metadata(path: &Path) -> Metadata {
    struct Reader<'a>(&'a [u8]);
    impl Reader<'_> {
        fn take<const N: usize>(&mut self) -> [u8; N] {
            let (head, rest) = self.0.split_first_chunk().unwrap();
            self.0 = rest;
            *head
        }

        fn u32(&mut self) -> u32 {
            u32::from_le_bytes(self.take())
        }

        fn u64(&mut self) -> u64 {
            u64::from_le_bytes(self.take())
        }

        fn f32(&mut self) -> f32 {
            f32::from_le_bytes(self.take())
        }

        fn text(&mut self) -> String {
            let len = self.u64() as usize;
            let (text, rest) = self.0.split_at(len);
            self.0 = rest;
            String::from_utf8(text.to_vec()).unwrap()
        }

        fn array(&mut self) -> Array {
            let (kind, count) = (self.u32(), self.u64());
            match kind {
                5 => Array::I64((0..count).map(|_| i64::from(self.u32() as i32)).collect()),
                6 => Array::F32((0..count).map(|_| self.f32()).collect()),
                8 => Array::Str((0..count).map(|_| self.text()).collect()),
                other => panic!("array of type {other}"),
            }
        }

        fn value(&mut self) -> Value {
            match self.u32() {
                4 => Value::U64(u64::from(self.u32())),
                6 => Value::F64(f64::from(self.f32())),
                7 => Value::Bool(self.take::<1>() != [0]),
                8 => Value::Str(self.text()),
                9 => Value::Array(self.array()),
                other => panic!("value of type {other}"),
            }
        }
    }
    let bytes = read(path);
    let mut reader = Reader(&bytes[16..]);
    let count = reader.u64();
    Metadata((0..count).map(|_| (reader.text(), reader.value())).collect())
}

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
        println!("SKIPPED: set WHARF_TEST_SMOLLM2 to SmolLM2-135M-Instruct's GGUF file to run this test");
        return;
    };
    let meta = metadata(Path::new(&path));
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
