//! Every architecture gives the logits that Transformers gave for the same random weights.

use std::path::{Path, PathBuf};

use wharf_engine::cpu::{CpuBackend, CpuOptions, KvType};
use wharf_engine::{BLOCK_TOKENS, Backend as _, BlockId, Chunk, Logits, LogitsFor};
use wharf_model::{Model, OpenOptions};
use wharf_testkit::fixtures;

/// What a fixture's reference.json says.
struct Reference {
    tokens: Vec<u32>,
    vocab: usize,
    context: Option<usize>,
    logits: Vec<f32>,
}

fn reference(folder: &Path) -> Reference {
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap();
    let number = |key: &str| json[key].as_u64().map(|n| n as usize);
    Reference {
        tokens: json["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|token| token.as_u64().unwrap() as u32)
            .collect(),
        vocab: number("vocab").unwrap(),
        context: number("context"),
        logits: std::fs::read(folder.join("logits.f32"))
            .unwrap()
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect(),
    }
}

/// Largest difference from the reference over all positions, computed in chunks of `chunk` tokens.
fn largest_error(path: &Path, reference: &Reference, chunk: usize) -> f32 {
    let model = Model::open_with(path, OpenOptions { context_length: reference.context }).unwrap();
    let options = CpuOptions { kv_tokens: 256, kv_type: KvType::F32, ..CpuOptions::default() };
    let mut backend = CpuBackend::load(model, &options, &mut |_, _| {}).unwrap();
    let blocks: Vec<BlockId> = (0..(256 / BLOCK_TOKENS) as u32).rev().map(BlockId).collect();
    let mut logits = Logits::default();
    let mut found = Vec::new();
    for (index, tokens) in reference.tokens.chunks(chunk).enumerate() {
        let chunk = Chunk { tokens, start: index * chunk, blocks: &blocks, logits: LogitsFor::All };
        backend.forward(&[chunk], &mut logits).unwrap();
        found.extend_from_slice(&logits.data);
    }
    assert_eq!(found.len(), reference.tokens.len() * reference.vocab);
    assert_eq!(found.len(), reference.logits.len());
    let errors = found.iter().zip(&reference.logits).map(|(a, b)| (a - b).abs());
    // A NaN must not pass for a small error.
    errors.fold(0.0, |most, error| if error.is_nan() || error > most { error } else { most })
}

fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(fixtures::models())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

#[test]
fn every_architecture_gives_the_logits_of_transformers() {
    let folders = folders();
    assert!(folders.len() >= 12, "fixtures are missing: {folders:?}");
    let mut wrong = Vec::new();
    for folder in &folders {
        let reference = reference(folder);
        let mut check = |path: &Path| {
            for chunk in [64, 7] {
                let error = largest_error(path, &reference, chunk);
                if error.is_nan() || error >= 1e-3 {
                    wrong.push(format!("{} in chunks of {chunk}: off by {error}", path.display()));
                }
            }
        };
        check(folder);
        let gguf = folder.join("model.gguf");
        if gguf.exists() {
            check(&gguf);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
