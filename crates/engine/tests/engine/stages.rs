//! Stages that follow each other leave what one stage over all layers leaves, and show whoever watches what matrices read.

use std::sync::{Arc, Mutex};

use wharf_engine::cpu::{CpuOptions, CpuStage, Entering, KvType, Matrix, Share};
use wharf_engine::{BlockId, Chunk, Logits, LogitsFor};
use wharf_kernels::DType;
use wharf_model::Model;
use wharf_testkit::TinyModel;

use crate::identical::tokens;

fn open(tiny: &TinyModel) -> Model {
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    tiny.write(file.path()).unwrap();
    Model::open(file.path()).unwrap()
}

fn stage(model: &Model, share: Share, kv_type: KvType) -> CpuStage {
    let options = CpuOptions { threads: 2, kv_tokens: 512, kv_type, ..CpuOptions::default() };
    CpuStage::load(model, share, &options, &mut |_, _| {}).unwrap()
}

/// Consecutive stages that begin at `cuts`.
fn stages(model: &Model, cuts: &[usize], kv_type: KvType) -> Vec<CpuStage> {
    let last = model.config.layers.len();
    let ends = cuts[1..].iter().chain([&last]);
    let shares = cuts.iter().zip(ends).map(|(&first, &end)| Share {
        layers: first..end,
        embeds: first == 0,
        predicts: end == last,
    });
    shares.map(|share| stage(model, share, kv_type)).collect()
}

fn run(stages: &mut [CpuStage], chunks: &[Chunk<'_>]) -> Vec<u32> {
    let mut logits = Logits::default();
    let mut hidden = Vec::new();
    for (index, stage) in stages.iter_mut().enumerate() {
        let entering = if index == 0 { Entering::Tokens } else { Entering::Hidden(&hidden) };
        stage.forward(chunks, entering, &mut logits).unwrap();
        hidden = stage.leaving().to_vec();
    }
    logits.values().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn stages_in_a_row_are_the_model_to_the_bit() {
    let tied = TinyModel { n_layers: 4, ..TinyModel::default() };
    let models = [
        tied.clone(),
        TinyModel { tied: false, dtype: DType::Q8_0, embedding_dtype: DType::Q8_0, ..tied.clone() },
        TinyModel { dtype: DType::Q4_0, embedding_dtype: DType::Q8_0, window: Some(37), ..tied },
    ];
    for tiny in models {
        let model = open(&tiny);
        let (long, short) = (tokens(300, 1), tokens(3, 2));
        let blocks: Vec<BlockId> = (0..32).map(BlockId).collect();
        let chunks = [
            Chunk { tokens: &long, start: 0, blocks: &blocks[..20], logits: LogitsFor::Last },
            Chunk { tokens: &short, start: 0, blocks: &blocks[20..], logits: LogitsFor::All },
        ];
        for kv_type in [KvType::F16, KvType::Int8] {
            let expected = run(&mut stages(&model, &[0], kv_type), &chunks);
            assert_eq!(expected.len(), 4 * 288);
            for cuts in [&[0, 2][..], &[0, 1, 3], &[0, 1, 2, 3]] {
                let found = run(&mut stages(&model, cuts, kv_type), &chunks);
                assert!(found == expected, "{} tied {} cut at {cuts:?}", tiny.dtype, tiny.tied);
            }
        }
    }
}

#[test]
fn whoever_watches_sees_what_every_matrix_reads_and_changes_nothing() {
    let tiny = TinyModel { n_layers: 3, dtype: DType::Q8_0, ..TinyModel::default() };
    let model = open(&tiny);
    let tokens = tokens(400, 1);
    let blocks: Vec<BlockId> = (0..32).map(BlockId).collect();
    let chunks = [Chunk { tokens: &tokens, start: 0, blocks: &blocks, logits: LogitsFor::Last }];
    let mut stages = stages(&model, &[0, 2], KvType::F16);
    let expected = run(&mut stages, &chunks);
    let seen = Arc::new(Mutex::new(Vec::new()));
    for stage in &mut stages {
        let seen = Arc::clone(&seen);
        stage.observe(Box::new(move |observed| {
            let rows = observed.rows.len() / observed.width;
            assert!(observed.rows.iter().all(|x| x.is_finite()) && observed.rows.iter().any(|x| *x != 0.0));
            seen.lock().unwrap().push((observed.layer, observed.matrix, rows, observed.width));
        }));
    }
    assert!(run(&mut stages, &chunks) == expected);
    let layer = |layer| {
        let layer = Some(layer);
        vec![
            (layer, Matrix::Qkv, 400, 64),
            (layer, Matrix::O, 400, 64),
            // The feed-forward layer goes over 384 rows at a time.
            (layer, Matrix::GateUp, 384, 64),
            (layer, Matrix::Down, 384, 128),
            (layer, Matrix::GateUp, 16, 64),
            (layer, Matrix::Down, 16, 128),
        ]
    };
    let all = [layer(0), layer(1), layer(2), vec![(None, Matrix::Output, 1, 64)]].concat();
    assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), all);
    stages.iter_mut().for_each(CpuStage::stop_observing);
    assert!(run(&mut stages, &chunks) == expected);
    assert!(seen.lock().unwrap().is_empty());
}

#[test]
fn what_is_shown_is_what_the_product_multiplies() {
    // With one layer, attention over one token gives its value: what `O` reads is V's product with what QKV reads.
    let tiny = TinyModel { n_layers: 1, n_kv_heads: 4, ..TinyModel::default() };
    let model = open(&tiny);
    let mut stage = stage(&model, Share::whole(&model.config), KvType::F32);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    stage.observe(Box::new(move |observed| {
        sink.lock().unwrap().push((observed.matrix, observed.rows.to_vec()));
    }));
    let chunk = Chunk { tokens: &[7], start: 0, blocks: &[BlockId(0)], logits: LogitsFor::None };
    stage.forward(&[chunk], Entering::Tokens, &mut Logits::default()).unwrap();
    let seen = seen.lock().unwrap();
    let of = |matrix| &seen.iter().find(|(seen, _)| *seen == matrix).unwrap().1;
    let view = model.weights.matrix(Some(0), wharf_model::Role::V).unwrap();
    let weights: Vec<f32> = view.data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    for (row, found) in weights.chunks(64).zip(of(Matrix::O)) {
        let expected: f32 = row.iter().zip(of(Matrix::Qkv)).map(|(w, x)| w * x).sum();
        assert!((expected - found).abs() < 1e-4, "{expected} {found}");
    }
}

#[test]
fn what_does_not_fit_a_stage_is_refused() {
    let model = open(&TinyModel::default());
    let share = |layers| Share { layers, embeds: false, predicts: false };
    let error = CpuStage::load(&model, share(1..3), &CpuOptions::default(), &mut |_, _| {}).err().unwrap();
    assert_eq!(error.to_string(), "there are no layers 1 to 3 in a model of 2");
    let mut stage = stage(&model, share(1..2), KvType::F16);
    let chunk = Chunk { tokens: &[7], start: 0, blocks: &[BlockId(0)], logits: LogitsFor::Last };
    let mut refused =
        |entering| stage.forward(&[chunk], entering, &mut Logits::default()).unwrap_err().to_string();
    assert!(refused(Entering::Tokens).contains("does not embed"));
    assert!(refused(Entering::Hidden(&[0.0; 63])).contains("63 values are not 1 rows of 64"));
}
