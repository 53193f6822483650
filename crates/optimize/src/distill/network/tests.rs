//! The trainer's forward pass says what the engine's does, and its gradient is the slope of the loss.

use std::path::{Path, PathBuf};

use wharf_model::{Model, OpenOptions};
use wharf_testkit::{TinyModel, fixtures};

use crate::distill::compute::{self, Compute, Device, Lessons, Micro, Step, Told};
use crate::distill::loss::{Divergence, Objective};
use crate::distill::optimizer;
use crate::distill::parameters::Parameters;
use crate::distill::teacher::Scorer;

fn cpu() -> Box<dyn Compute> {
    compute::open(Device::Cpu).unwrap()
}

fn micro(tokens: &[u32], length: usize) -> Micro {
    let learned = vec![true; tokens.len()];
    Micro { windows: Vec::new(), tokens: tokens.to_vec(), targets: tokens.to_vec(), learned, length }
}

fn trainer_logits(parameters: &Parameters, batch: &Micro) -> Vec<f32> {
    let mut all = Vec::new();
    cpu()
        .logits(parameters, batch, &mut |rows| {
            all.extend_from_slice(rows);
            Ok(())
        })
        .unwrap();
    all
}

/// A NaN must not pass for a small error.
fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |most, e| if e.is_nan() || e > most { e } else { most })
}

#[test]
fn every_architecture_gives_the_logits_of_transformers() {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(fixtures::models())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    assert!(folders.len() >= 12, "fixtures are missing: {folders:?}");
    let mut wrong = Vec::new();
    for folder in &folders {
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap();
        let tokens: Vec<u32> =
            json["tokens"].as_array().unwrap().iter().map(|token| token.as_u64().unwrap() as u32).collect();
        let expected: Vec<f32> = std::fs::read(folder.join("logits.f32"))
            .unwrap()
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        let mut check = |path: &Path| {
            let context_length = json["context"].as_u64().map(|n| n as usize);
            let model = Model::open_with(path, OpenOptions { context_length }).unwrap();
            let parameters = Parameters::from_model(&model, "teacher").unwrap();
            let error =
                largest_difference(&trainer_logits(&parameters, &micro(&tokens, tokens.len())), &expected);
            if error.is_nan() || error >= 1e-3 {
                wrong.push(format!("{}: off by {error}", path.display()));
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

#[test]
fn sequences_of_a_batch_give_the_engines_logits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel { window: Some(9), ..TinyModel::default() }.write(&path).unwrap();
    let open = || Model::open(&path).unwrap();
    let tokens: Vec<u32> = (0..3 * 24).map(|i| (i * 37 + 11) % 288).collect();
    let batch = micro(&tokens, 24);
    let mut engine = Vec::new();
    // Two sequences at a time, so that the last pass is a shorter one.
    Scorer::load(open(), "teacher", 2, 24, 2)
        .unwrap()
        .score(&batch, &mut |rows| {
            engine.extend_from_slice(rows);
            Ok(())
        })
        .unwrap();
    let trainer = trainer_logits(&Parameters::from_model(&open(), "teacher").unwrap(), &batch);
    let error = largest_difference(&trainer, &engine);
    assert!(error < 2e-4, "off by {error}");
}

#[test]
fn the_gradient_is_the_slope_of_the_loss_in_every_weight() {
    let parameters = super::super::tests::tiny();
    let vocab = parameters.config.vocab_size;
    let tokens: Vec<u32> = (0..2 * 6).map(|i| (i * 53 + 5) % 288).collect();
    let batch = Micro { targets: (0..12).map(|i| (i * 31 + 7) % 288).collect(), ..micro(&tokens, 6) };
    let teacher: Vec<f32> = (0..12 * vocab).map(|i| ((i * 7919) % 1000) as f32 / 250.0).collect();
    let features: Vec<f32> = (0..12 * 64).map(|i| ((i * 104_729) % 1000) as f32 / 500.0 - 1.0).collect();
    let objective = Objective { divergence: Divergence::ForwardKl, alpha: 0.7, temperature: 2.0 };
    let step = Step { objective, scale: 1.0 / 12.0, threads: 2, features: &[0], feature_weight: 0.5 };
    let run = |parameters: &Parameters| {
        let mut gradients = optimizer::none(parameters);
        let mut tell =
            |_: &Micro| Ok(Told { logits: Lessons::Full(teacher.clone()), features: vec![features.clone()] });
        let sums =
            cpu().step(parameters, &step, std::slice::from_ref(&batch), &mut tell, &mut gradients).unwrap();
        (objective.value(sums.loss, 12.0) + 0.5 * sums.features / 12.0, gradients)
    };
    let (_, gradients) = run(&parameters);
    for index in 0..parameters.list.len() {
        let gradient = &gradients[index];
        // Along its own gradient a weight's slope is the largest and stands out from rounding.
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        assert!(norm > 1e-6, "{:?} has no gradient", parameters.list[index].key);
        let at = |step: f64| {
            let mut moved = parameters.clone();
            let data = &mut moved.list[index].data;
            data.iter_mut().zip(gradient).for_each(|(x, g)| *x += (f64::from(*g) / norm * step) as f32);
            run(&moved).0
        };
        let slope = (at(5e-3) - at(-5e-3)) / 1e-2;
        let key = parameters.list[index].key;
        assert!((slope - norm).abs() < 0.02 * norm + 2e-3, "{key:?}: slope {slope}, gradient {norm}");
    }
}

#[test]
fn what_is_not_learned_changes_neither_loss_nor_gradient() {
    let parameters = super::super::tests::tiny();
    let vocab = parameters.config.vocab_size;
    let tokens: Vec<u32> = (0..2 * 6).map(|i| (i * 53 + 5) % 288).collect();
    let learned: Vec<bool> = (0..12).map(|i| i % 3 == 1).collect();
    let objective = Objective { divergence: Divergence::ForwardKl, alpha: 0.7, temperature: 2.0 };
    let step = Step { objective, scale: 1.0 / 4.0, threads: 2, features: &[0], feature_weight: 0.5 };
    // Targets, teacher and features are others where `changed` says so.
    let run = |changed: &dyn Fn(usize) -> bool| {
        let shift = |i: usize| usize::from(changed(i)) * 97;
        let targets = (0..12).map(|i| ((i * 31 + 7 + shift(i)) % 288) as u32).collect();
        let batch = Micro { targets, learned: learned.clone(), ..micro(&tokens, 6) };
        let numbers = |width: usize| -> Vec<f32> {
            (0..12 * width).map(|i| ((i * 7919 + shift(i / width)) % 1000) as f32 / 250.0).collect()
        };
        let mut tell =
            |_: &Micro| Ok(Told { logits: Lessons::Full(numbers(vocab)), features: vec![numbers(64)] });
        let mut gradients = optimizer::none(&parameters);
        let sums =
            cpu().step(&parameters, &step, std::slice::from_ref(&batch), &mut tell, &mut gradients).unwrap();
        (sums, gradients)
    };
    let plain = run(&|_| false);
    assert_eq!(run(&|i| !learned[i]), plain);
    assert_ne!(run(&|i| i == 4).0, plain.0);
    assert!(plain.0.loss.ce > 0.0 && plain.1.iter().flatten().any(|g| *g != 0.0));
}

#[test]
fn the_same_step_gives_the_same_bits() {
    let parameters = super::super::tests::tiny();
    let tokens: Vec<u32> = (0..4 * 32).map(|i| (i * 53 + 5) % 288).collect();
    let batch = micro(&tokens, 32);
    let objective = Objective { divergence: Divergence::ForwardKl, alpha: 0.0, temperature: 1.0 };
    let step = Step { objective, scale: 1.0, threads: 2, features: &[], feature_weight: 0.0 };
    let run = || {
        let mut gradients = optimizer::none(&parameters);
        let mut tell = |_: &Micro| Ok(Told { logits: Lessons::Absent, features: Vec::new() });
        cpu().step(&parameters, &step, std::slice::from_ref(&batch), &mut tell, &mut gradients).unwrap();
        gradients
    };
    let first = run();
    (0..5).for_each(|_| assert_eq!(run(), first));
}
