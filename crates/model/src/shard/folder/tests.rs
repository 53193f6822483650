//! What was cut is read as what it was, and a manifest that lies is refused.

use wharf_kernels::DType;
use wharf_testkit::{TinyModel, fixtures};

use super::*;
use crate::OpenOptions;
use crate::shard::Steps;

fn cut(path: &Path, ranks: usize, folder: &Path) -> (Model, ShardPlan) {
    let model = Model::open_with(path, OpenOptions::default()).unwrap();
    let plan = ShardPlan::new(&model.config, Steps::of(&model.config, &model.weights), ranks).unwrap();
    write(&model, &plan, [7; 32], folder, &mut |_, _| {}).unwrap();
    (model, plan)
}

/// Every rank's part is the part of the whole, and what the model is stays what it is.
fn check(path: &Path, ranks: usize) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("cut");
    let (model, plan) = cut(path, ranks, &folder);
    for (rank, share) in plan.ranks.iter().enumerate() {
        let part = open(&folder, rank).unwrap();
        assert_eq!(part.config, model.config);
        assert_eq!(part.generation, model.generation);
        assert_eq!(part.info.name, model.info.name);
        assert_eq!(part.held, Some(Held { plan: plan.clone(), rank, model: [7; 32] }));
        for layer in std::iter::once(None).chain((0..model.config.layers.len()).map(Some)) {
            for role in Role::ALL {
                let (whole, held) = (model.weights.optional(layer, role), part.weights.optional(layer, role));
                assert_eq!(whole.is_some(), held.is_some(), "{role} of {layer:?}");
                let (Some(whole), Some(held)) = (whole, held) else { continue };
                let expected = model.weights.part(whole, role, Some(share));
                let found = part.weights.part(held, role, Some(share));
                assert_eq!((expected.rows, expected.cols), (found.rows, found.cols), "{role}");
                assert!(expected.data == found.data, "{role} of {layer:?}");
            }
        }
    }
    if let (Source::Gguf(whole), Source::Gguf(part)) = (&model.source, open(&folder, 0).unwrap().source) {
        assert_eq!(&part, whole);
    }
    assert!(matches!(open(&folder, ranks), Err(ShardFileError::Rank { .. })));
    let refused = Model::open(&folder).unwrap_err().to_string();
    assert!(refused.contains("it was cut for a group of ranks"), "{refused}");
    assert!(matches!(write(&model, &plan, [7; 32], &folder, &mut |_, _| {}), Err(ShardFileError::Exists(_))));
}

#[test]
fn a_rank_reads_its_part_and_the_model_is_the_same() {
    let temporary = tempfile::tempdir().unwrap();
    for dtype in [DType::F32, DType::BF16, DType::Q8_0] {
        let path = temporary.path().join("tiny.gguf");
        let tiny = TinyModel {
            dtype,
            embedding_dtype: dtype,
            hidden_size: 96,
            n_heads: 3,
            n_kv_heads: 3,
            ffn_size: 160,
            ..TinyModel::default()
        };
        tiny.write(&path).unwrap();
        for ranks in 1..=3 {
            check(&path, ranks);
        }
    }
}

#[test]
fn every_architectures_folder_can_be_cut() {
    let mut cut = 0;
    for entry in fs::read_dir(fixtures::models()).unwrap() {
        let folder = entry.unwrap().path();
        if folder.join("config.json").is_file() {
            // Its products have 32 inputs, which a matrix unit adds at once.
            let whole = folder.ends_with("qwen2-bf16");
            check(&folder, if whole { 1 } else { 2 });
            cut += 1;
        }
    }
    assert!(cut > 4, "the fixtures are there");
}

#[test]
fn a_manifest_that_lies_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let (path, folder) = (temporary.path().join("tiny.gguf"), temporary.path().join("cut"));
    TinyModel::default().write(&path).unwrap();
    cut(&path, 2, &folder);
    let manifest = folder.join(MANIFEST);
    let json = fs::read_to_string(&manifest).unwrap();
    let lie = |from: &str, to: &str| {
        assert!(json.contains(from), "{from}");
        fs::write(&manifest, json.replacen(from, to, 1)).unwrap();
        let error = open(&folder, 0).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error}: {source}")
    };
    for (from, to, expected) in [
        ("\"version\": 1", "\"version\": 2", "version 2"),
        ("rank-0.weights", "../tiny.gguf", "no name of a file beside it"),
        ("\"offset\": 0", "\"offset\": 99999999", "has no token embedding"),
        ("\"offset\": 0", "\"offset\": 18446744073709551615", "has no token embedding"),
        ("\"rows\": 144", "\"rows\": 145", "has shape"),
        ("\"end\": 2", "\"end\": 200", "does not fit the model"),
        ("0707", "07g7", "digest is malformed"),
        ("{", "", "failed to read"),
    ] {
        let error = lie(from, to);
        assert!(error.contains(expected), "{from} as {to}: {error}");
    }
}
