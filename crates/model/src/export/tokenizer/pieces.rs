//! Decides what a SentencePiece tokenizer is in the other format: GGUF has a score for each piece, tokenizer.json the merges that follow.
//!
//! Of the neighbours that make a piece together those with the highest score are put together first, whatever they are. So the merges
//! are all ways to make a piece of two others, in the order of the scores; merges that are anything else have no scores, and are refused.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::{CONTROL, NORMAL, Splitting, UNKNOWN, USER_DEFINED, pairs, type_of};
use crate::gguf::write::Entry;
use crate::gguf::{self, Metadata};
use crate::tokenizer::Tokenizer;

/// A type of tokens in GGUF that only these tokenizers have.
const BYTE: i32 = 6;

/// What stands for a space within pieces.
const SPACE: &str = "▁";

/// The tables of a tokenizer.json whose tokens have these texts and types; `None` when no scores say the same as its merges.
pub(super) fn to_gguf(
    root: &Map<String, Value>,
    tokenizer: &Tokenizer,
    (texts, mut types): (Vec<String>, Vec<i32>),
) -> Option<Vec<Entry>> {
    let model = root.get("model")?;
    let says = |key: &str| model.get(key).and_then(Value::as_bool).unwrap_or(false);
    if !says("byte_fallback") || says("ignore_merges") {
        return None;
    }
    types[tokenizer.unknown()? as usize] = UNKNOWN;
    let is_byte = |text: &str| text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
    for (kind, _) in types.iter_mut().zip(&texts).filter(|(kind, text)| **kind == NORMAL && is_byte(text)) {
        *kind = BYTE;
    }
    let merges = pairs(root);
    let mut scores = vec![0.0; texts.len()];
    let pieces = texts.iter().zip(&types).filter(|(_, kind)| [NORMAL, USER_DEFINED].contains(kind));
    let pieces: HashSet<&str> = pieces.map(|(text, _)| text.as_str()).collect();
    let implied: HashSet<(&str, &str)> = pieces.iter().flat_map(|piece| ways(piece, &pieces)).collect();
    let found: HashSet<(&str, &str)> =
        merges.iter().map(|(left, right)| (left.as_str(), right.as_str())).collect();
    if implied != found {
        return None;
    }
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    for (score, text) in scores.iter_mut().zip(&texts) {
        if let Some(rank) = ranks.get(text) {
            *score = -1.0 - *rank as f32;
        }
    }
    Some(vec![
        Entry::new("tokenizer.ggml.model", "llama"),
        Entry::new("tokenizer.ggml.pre", "default"),
        Entry::new("tokenizer.ggml.tokens", texts.as_slice()),
        Entry::new("tokenizer.ggml.scores", scores.as_slice()),
        Entry::new("tokenizer.ggml.token_type", types.as_slice()),
    ])
}

/// How a tokenizer.json splits text as `metadata` says.
pub(super) fn to_hf(metadata: &Metadata, tokenizer: &Tokenizer, tokens: &[String]) -> Splitting {
    let space = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if space {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let is_piece = |id: &usize| ![UNKNOWN, CONTROL, BYTE].contains(&type_of(metadata, *id));
    let mut pieces: Vec<usize> = (0..tokens.len()).filter(is_piece).collect();
    let texts: HashSet<&str> = pieces.iter().map(|id| tokens[*id].as_str()).collect();
    let scores = scores(metadata);
    let score = |id: usize| scores.get(id).copied().unwrap_or_default();
    pieces.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
    let merges: Vec<Value> = pieces
        .iter()
        .flat_map(|id| ways(&tokens[*id], &texts))
        .map(|(left, right)| json!([left, right]))
        .collect();
    let vocab: Map<String, Value> =
        tokens.iter().enumerate().map(|(id, text)| (text.clone(), json!(id))).collect();
    Splitting {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        unframed: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": tokenizer.unknown().map(|id| tokens[id as usize].clone()),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "ignore_merges": false, "vocab": vocab, "merges": merges,
        }),
    }
}

/// Every piece after the other: a text in which neighbours may be put together in ways that no other text has.
pub(super) fn all(tokenizer: &Tokenizer) -> String {
    let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    ids.filter(|id| !tokenizer.is_special(*id)).map(|id| tokenizer.token_text(id)).collect()
}

/// All ways to make `piece` of two of `pieces`, the shortest left side first.
fn ways<'p>(piece: &'p str, pieces: &HashSet<&str>) -> impl Iterator<Item = (&'p str, &'p str)> {
    let splits = piece.char_indices().skip(1).map(move |(at, _)| piece.split_at(at));
    splits.filter(move |(left, right)| pieces.contains(left) && pieces.contains(right))
}

fn scores(metadata: &Metadata) -> Vec<f32> {
    match metadata.get("tokenizer.ggml.scores") {
        Some(gguf::Value::Array(gguf::Array::F32(scores))) => scores.clone(),
        Some(gguf::Value::Array(gguf::Array::F64(scores))) => scores.iter().map(|x| *x as f32).collect(),
        _ => Vec::new(),
    }
}
