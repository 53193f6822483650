//! Tiny models of every architecture, as Transformers and llama.cpp's conventions write them.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView as SafeTensorView, serialize};
use serde_json::Value;
use wharf_kernels::block::dequantize;
use wharf_model::config::RopeLayout;
use wharf_model::{ChatTemplate, EncodeOptions, Model, ModelConfig, OpenOptions, Role, Source, Tokenizer};

use crate::forward::forward;

const NAMES: [&str; 14] = [
    "gemma2",
    "gemma3",
    "llama-bias",
    "llama-linear-f16-sharded",
    "llama-llama3",
    "llama-yarn",
    "mistral",
    "phi3",
    "phi3-longrope-long",
    "phi3-longrope-short",
    "qwen2-bf16",
    "qwen2-window",
    "qwen3",
    "smollm2",
];

struct Fixture {
    folder: PathBuf,
    tokens: Vec<u32>,
    /// `[tokens][vocab]`
    logits: Vec<Vec<f32>>,
    options: OpenOptions,
}

fn fixture(name: &str) -> Fixture {
    let folder = wharf_testkit::fixtures::models().join(name);
    let described: Value = serde_json::from_slice(&fs::read(folder.join("reference.json")).unwrap()).unwrap();
    let tokens =
        described["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let vocab = described["vocab"].as_u64().unwrap() as usize;
    let context_length = described.get("context").map(|n| n.as_u64().unwrap() as usize);
    let raw = fs::read(folder.join("logits.f32")).unwrap();
    let (values, _) = raw.as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let logits = values.chunks(vocab).map(<[f32]>::to_vec).collect();
    Fixture { folder, tokens, logits, options: OpenOptions { context_length } }
}

fn open(path: &Path, options: OpenOptions) -> Model {
    Model::open_with(path, options).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()))
}

/// Largest difference between the logits of `path` and Transformers'.
fn worst_difference(fixture: &Fixture, path: &Path) -> f64 {
    let model = open(path, fixture.options);
    let ours = forward(&model, &fixture.tokens);
    assert_eq!(ours.len(), fixture.logits.len());
    let pairs = ours.iter().flatten().zip(fixture.logits.iter().flatten());
    pairs.map(|(ours, theirs)| (ours - f64::from(*theirs)).abs()).fold(0.0, f64::max)
}

#[test]
fn every_fixture_is_listed() {
    let mut found: Vec<String> = fs::read_dir(wharf_testkit::fixtures::models())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, NAMES);
}

#[test]
fn safetensors_describe_what_transformers_computes() {
    for name in NAMES {
        let fixture = fixture(name);
        let worst = worst_difference(&fixture, &fixture.folder);
        assert!(worst < 1e-4, "{name}: logits differ by {worst}");
    }
}

#[test]
fn gguf_describes_what_transformers_computes() {
    for name in NAMES.into_iter().filter(|name| *name != "qwen2-window") {
        let fixture = fixture(name);
        let worst = worst_difference(&fixture, &fixture.folder.join("model.gguf"));
        assert!(worst < 1e-4, "{name}: logits differ by {worst}");
    }
}

/// Changes the configuration of fixture `name` and expects the logits to move.
fn must_show(name: &str, change: impl Fn(&mut ModelConfig)) {
    let fixture = fixture(name);
    let mut model = open(&fixture.folder, fixture.options);
    change(&mut model.config);
    let ours = forward(&model, &fixture.tokens);
    let pairs = ours.iter().flatten().zip(fixture.logits.iter().flatten());
    let worst = pairs.map(|(ours, theirs)| (ours - f64::from(*theirs)).abs()).fold(0.0, f64::max);
    assert!(worst > 1e-2, "{name}: the fixture cannot tell, largest difference {worst}");
}

#[test]
fn every_feature_shows_in_the_logits_of_its_fixture() {
    let no_windows =
        |config: &mut ModelConfig| config.layers.iter_mut().for_each(|layer| layer.window = None);
    for name in ["mistral", "qwen2-window", "gemma2", "gemma3", "phi3"] {
        must_show(name, no_windows);
    }
    let longer_windows = |config: &mut ModelConfig| {
        config.layers.iter_mut().for_each(|layer| layer.window = layer.window.map(|window| window + 1));
    };
    must_show("mistral", longer_windows);
    let plain_rope = |config: &mut ModelConfig| {
        for rope in &mut config.ropes {
            let dim = rope.dim as f64;
            rope.inv_freq = (0..rope.dim / 2).map(|i| 10_000f64.powf(-((2 * i) as f64) / dim)).collect();
        }
    };
    for name in [
        "llama-llama3",
        "llama-linear-f16-sharded",
        "llama-yarn",
        "phi3-longrope-short",
        "phi3-longrope-long",
    ] {
        must_show(name, plain_rope);
    }
    let no_amplitude =
        |config: &mut ModelConfig| config.ropes.iter_mut().for_each(|rope| rope.amplitude = 1.0);
    for name in ["llama-yarn", "phi3-longrope-short", "phi3-longrope-long"] {
        must_show(name, no_amplitude);
    }
    must_show("gemma2", |config| config.attn_softcap = None);
    must_show("gemma2", |config| config.logit_softcap = None);
    must_show("gemma2", |config| config.embedding_scale = 1.0);
    must_show("gemma2", |config| config.post_norms = false);
    must_show("gemma2", |config| config.norm_offset = 0.0);
    must_show("gemma3", |config| config.qk_norm = false);
    must_show("gemma3", |config| config.layers.iter_mut().for_each(|layer| layer.rope = 0));
    must_show("qwen3", |config| config.qk_norm = false);
    must_show("phi3", |config| config.attn_scale *= 2.0);
}

/// A configuration with what the two formats store differently taken out.
fn comparable(model: &Model) -> ModelConfig {
    let mut config = model.config.clone();
    config.architecture = String::new();
    config.norm_offset = 0.0;
    config.rope_layout = RopeLayout::Halves;
    // GGUF stores factors and epsilons as F32.
    for rope in &mut config.ropes {
        rope.inv_freq.iter_mut().for_each(|f| *f = f64::from(*f as f32));
    }
    config
}

#[test]
fn both_formats_give_one_configuration() {
    for name in NAMES.into_iter().filter(|name| *name != "qwen2-window") {
        let fixture = fixture(name);
        let hf = comparable(&open(&fixture.folder, fixture.options));
        let gguf = comparable(&open(&fixture.folder.join("model.gguf"), fixture.options));
        for (hf, gguf) in hf.ropes.iter().zip(&gguf.ropes) {
            let close = |(a, b): (&f64, &f64)| (a / b - 1.0).abs() < 1e-6;
            assert!(hf.inv_freq.iter().zip(&gguf.inv_freq).all(close), "{name}: {hf:?} {gguf:?}");
            assert_eq!((hf.dim, hf.inv_freq.len()), (gguf.dim, gguf.inv_freq.len()), "{name}");
            assert!((hf.amplitude - gguf.amplitude).abs() < 1e-6, "{name}");
        }
        let without_ropes = |config: &ModelConfig| ModelConfig { ropes: Vec::new(), ..config.clone() };
        assert_eq!(without_ropes(&hf), without_ropes(&gguf), "{name}");
        assert_eq!(hf.ropes.len(), gguf.ropes.len(), "{name}");
    }
}

#[test]
fn both_formats_hold_the_same_weights() {
    for name in NAMES.into_iter().filter(|name| *name != "qwen2-window") {
        let fixture = fixture(name);
        let hf = open(&fixture.folder, fixture.options);
        let gguf = open(&fixture.folder.join("model.gguf"), fixture.options);
        let layers = std::iter::once(None).chain((0..hf.config.layers.len()).map(Some));
        for layer in layers {
            for role in Role::ALL {
                let (a, b) = (values(&hf, layer, role), values(&gguf, layer, role));
                assert_eq!(a.is_some(), b.is_some(), "{name}: {role} in layer {layer:?}");
                let (Some(mut a), Some(b)) = (a, b) else { continue };
                if gguf.config.rope_layout == RopeLayout::Interleaved && is_rotated(role) {
                    a = interleave(&a, hf.config.head_dim);
                }
                let differ = a.iter().flatten().zip(b.iter().flatten()).any(|(a, b)| (a - b).abs() > 1e-6);
                assert!(!differ, "{name}: {role} in layer {layer:?}");
            }
        }
    }
}

fn is_rotated(role: Role) -> bool {
    matches!(role, Role::Q | Role::K | Role::QBias | Role::KBias)
}

/// Rows of a weight, norms with their offset added; a vector is one number per row.
fn values(model: &Model, layer: Option<usize>, role: Role) -> Option<Vec<Vec<f32>>> {
    let view = model.weights.optional(layer, role)?;
    let mut flat = vec![0.0; view.rows * view.cols];
    dequantize(view.dtype, view.data, &mut flat).unwrap();
    if role.is_norm() {
        flat.iter_mut().for_each(|w| *w += model.config.norm_offset);
    }
    let cols = if view.rows == 1 { 1 } else { view.cols };
    Some(flat.chunks(cols).map(<[f32]>::to_vec).collect())
}

/// llama.cpp's order of the rows of Q and K: pair by pair instead of half by half.
fn interleave(rows: &[Vec<f32>], head_dim: usize) -> Vec<Vec<f32>> {
    let pair = |head: &[Vec<f32>]| {
        let halves = head.split_at(head_dim / 2);
        halves.0.iter().zip(halves.1).flat_map(|(a, b)| [a.clone(), b.clone()]).collect::<Vec<_>>()
    };
    rows.chunks(head_dim).flat_map(pair).collect()
}

#[test]
fn generation_defaults_come_with_the_folder() {
    let fixture = fixture("qwen3");
    let generation = open(&fixture.folder, fixture.options).generation;
    assert_eq!(generation.eos_token_ids, [2, 5]);
    assert_eq!((generation.bos_token_id, generation.pad_token_id), (Some(1), Some(0)));
    assert_eq!((generation.temperature, generation.top_p), (Some(0.6), Some(0.9)));
}

#[test]
fn longrope_keeps_to_the_original_context_unless_more_is_asked_for() {
    let folder = wharf_testkit::fixtures::models().join("phi3-longrope-short");
    for path in [folder.clone(), folder.join("model.gguf")] {
        assert_eq!(open(&path, OpenOptions::default()).config.context_length, 512);
        let long = OpenOptions { context_length: Some(513) };
        assert_eq!(open(&path, long).config.context_length, 2048);
    }
}

#[test]
fn released_pages_read_back_the_same() {
    let fixture = fixture("smollm2");
    let model = open(&fixture.folder, fixture.options);
    let view = model.weights.matrix(Some(1), Role::Down).unwrap();
    let before = view.data.to_vec();
    model.weights.release(&view).unwrap();
    assert_eq!(view.data, before);
}

/// Gemma 3 from 4B on nests its text part beside a vision part; both ways of naming it are in use.
#[test]
fn the_text_part_of_a_multimodal_checkpoint_is_found() {
    let plain = fixture("gemma3");
    let bytes = fs::read(plain.folder.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let text: Value = serde_json::from_slice(&fs::read(plain.folder.join("config.json")).unwrap()).unwrap();
    let config = serde_json::json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text,
    });
    for (prefix, vision) in
        [("language_model.model.", "vision_tower."), ("model.language_model.", "model.vision_tower.")]
    {
        let rename = |name: &str| format!("{prefix}{}", name.strip_prefix("model.").unwrap());
        let mut renamed: Vec<_> = tensors.iter().map(|(name, view)| (rename(name), view)).collect();
        let positions = SafeTensorView::new(Dtype::I64, vec![2], &[0; 16]).unwrap();
        renamed.push((format!("{vision}embeddings.position_ids"), positions));
        let folder = tempfile::TempDir::new().unwrap();
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        fs::write(folder.path().join("model.safetensors"), serialize(renamed, None).unwrap()).unwrap();
        let worst = worst_difference(&plain, folder.path());
        assert!(worst < 1e-4, "{prefix}: logits differ by {worst}");
    }
}

#[test]
fn a_model_names_itself_after_its_folder_when_its_files_do_not() {
    let folder = wharf_testkit::fixtures::models().join("qwen2-bf16");
    assert_eq!(open(&folder, OpenOptions::default()).info.name, "qwen2-bf16");
    assert_eq!(open(&folder.join("model.gguf"), OpenOptions::default()).info.name, "fixture");
}

#[test]
fn tiny_models_have_a_tokenizer_and_a_chat_template() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("tiny.gguf");
    let tiny = wharf_testkit::TinyModel::default();
    tiny.write(&path).unwrap();
    let model = open(&path, OpenOptions::default());
    let Source::Gguf(metadata) = &model.source else { panic!("a GGUF file") };
    let tokenizer = Tokenizer::from_gguf(metadata).unwrap();
    let ids = tokenizer.encode("in the air", EncodeOptions::default());
    let texts: Vec<String> = ids.iter().map(|id| tokenizer.token_text(*id)).collect();
    assert_eq!(texts, ["in", " the", " a", "i", "r"]);
    assert_eq!(tokenizer.decode(&ids, false), "in the air");
    assert_eq!(tokenizer.vocab_size(), model.config.vocab_size);
    assert_eq!(model.generation.eos_token_ids, [tiny.vocabulary().eos]);
    assert!(ChatTemplate::from_gguf(metadata).unwrap().is_some());
}
