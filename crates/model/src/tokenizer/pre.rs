//! Decides which name of GGUF stands for the same splitting as a tokenizer.json, and how a named one is written there.

use serde_json::{Value, json};

use super::Tokenizer;
use super::bpe::Symbols;
use super::gguf::PreTokenizer;
use super::pipeline::{Behavior, CharClass, Normalizer, Step};
use super::split::KNOWN;

/// Names in the order of preference: the first whose splitting is the same is taken.
const NAMES: [&str; 10] = [
    "llama-bpe",
    "qwen2",
    "smollm",
    "gpt-2",
    "smaug-bpe",
    "stablelm2",
    "qwen35",
    "tekken",
    "gpt-4o",
    "default",
];

impl Tokenizer {
    /// The name of this splitting in GGUF; `None` for tokenizers that do not end in bytes or split in a way of their own.
    pub fn gguf_pre(&self) -> Option<&'static str> {
        if !matches!(self.bpe.symbols, Symbols::Bytes(_)) {
            return None;
        }
        NAMES.into_iter().find(|name| {
            PreTokenizer::named(name).is_ok_and(|rules| {
                same_steps(&rules.steps, &self.steps)
                    && same_normalizers(&rules.normalizers, &self.normalizers)
                    && rules.ignore_merges == self.bpe.ignore_merges
            })
        })
    }
}

fn same_steps(a: &[Step], b: &[Step]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|pair| match pair {
            (Step::Known(a), Step::Known(b)) => a == b,
            (Step::Chars { class, behavior }, Step::Chars { class: other, behavior: other_behavior }) => {
                class == other && behavior == other_behavior
            }
            _ => false,
        })
}

fn same_normalizers(a: &[Normalizer], b: &[Normalizer]) -> bool {
    matches!((a, b), ([], []) | ([Normalizer::Nfc], [Normalizer::Nfc]))
}

/// Parts of tokenizer.json that say how text is split.
pub(crate) struct Json {
    pub(crate) normalizer: Value,
    pub(crate) pre_tokenizer: Value,
    pub(crate) ignore_merges: bool,
}

/// What GGUF calls `name`; `None` for a name that is not known, or a splitting that we cannot write.
pub(crate) fn json(name: &str) -> Option<Json> {
    let rules = PreTokenizer::named(name).ok()?;
    let normalizer = match &rules.normalizers[..] {
        [] => Value::Null,
        [Normalizer::Nfc] => json!({"type": "NFC"}),
        _ => return None,
    };
    let mut parts = rules.steps.iter().map(step).collect::<Option<Vec<_>>>()?;
    parts.push(
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}),
    );
    Some(Json {
        normalizer,
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": parts}),
        ignore_merges: rules.ignore_merges,
    })
}

fn step(step: &Step) -> Option<Value> {
    match step {
        Step::Known(pattern) => {
            let (regex, _) = KNOWN.iter().find(|(_, known)| known == pattern)?;
            Some(
                json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}),
            )
        }
        Step::Chars { class: CharClass::Numeric, behavior: Behavior::Isolated } => {
            Some(json!({"type": "Digits", "individual_digits": true}))
        }
        _ => None,
    }
}
