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

/// Logits of all positions, computed in chunks of `chunk` tokens.
fn logits(path: &Path, reference: &Reference, chunk: usize, kv_type: KvType) -> Vec<f32> {
    let model = Model::open_with(path, OpenOptions { context_length: reference.context }).unwrap();
    let options = CpuOptions { kv_tokens: 256, kv_type, ..CpuOptions::default() };
    let mut backend = CpuBackend::load(model, &options, &mut |_, _| {}).unwrap();
    let blocks: Vec<BlockId> = (0..(256 / BLOCK_TOKENS) as u32).rev().map(BlockId).collect();
    let mut logits = Logits::default();
    let mut found = Vec::new();
    for (index, tokens) in reference.tokens.chunks(chunk).enumerate() {
        let chunk = Chunk { tokens, start: index * chunk, blocks: &blocks, logits: LogitsFor::All };
        backend.forward(&[chunk], &mut logits).unwrap();
        found.extend_from_slice(logits.values());
    }
    assert_eq!(found.len(), reference.tokens.len() * reference.vocab);
    found
}

/// Largest difference from the reference over all positions.
fn largest_error(path: &Path, reference: &Reference, chunk: usize) -> f32 {
    let found = logits(path, reference, chunk, KvType::F32);
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
        // BF16 weights are multiplied with activations in eight bits of precision, the reference's were not rounded. What is
        // wrong by more than rounding is wrong by as much as logits differ: 1.7.
        let most = if folder.ends_with("qwen2-bf16") { 0.2 } else { 1e-3 };
        let mut check = |path: &Path| {
            for chunk in [64, 7] {
                let error = largest_error(path, &reference, chunk);
                if error.is_nan() || error >= most {
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

/// The log-probabilities of one position.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().fold(f32::MIN, |most, x| most.max(*x));
    let total: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
    logits.iter().map(|x| f64::from(x - most) - total.ln()).collect()
}

/// Mean divergence of the distributions over the next token from what half-precision keys and values give.
fn mean_divergence(path: &Path, reference: &Reference, kv_type: KvType) -> f64 {
    let (p, q) = (logits(path, reference, 64, KvType::F16), logits(path, reference, 64, kv_type));
    let positions = p.chunks(reference.vocab).zip(q.chunks(reference.vocab));
    let total: f64 = positions
        .flat_map(|(p, q)| log_softmax(p).into_iter().zip(log_softmax(q)))
        .map(|(p, q)| p.exp() * (p - q))
        .sum();
    total / reference.tokens.len() as f64
}

#[test]
fn bytes_for_keys_and_values_hardly_move_the_distribution() {
    let mut wrong = Vec::new();
    for folder in folders() {
        let reference = reference(&folder);
        let divergence = mean_divergence(&folder, &reference, KvType::Int8);
        // A scale of another head gives hundreds of times the most that is allowed. Nothing at all would mean that nothing
        // was stored in bytes.
        if !(1e-6..2e-3).contains(&divergence) {
            wrong.push(format!("{}: {divergence:.2e}", folder.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
