//! Whole models: the logits of Transformers, and of the CPU backend, whatever the batch.

use std::path::Path;

use wharf_engine::cpu::{CpuBackend, CpuOptions, KvType};
use wharf_engine::{BLOCK_TOKENS, Backend, BackendError, BlockId, Chunk, Logits, LogitsFor};
use wharf_fake_cuda::{FakeCuda, FakeGpu};
use wharf_kernels::DType;
use wharf_model::{Model, OpenOptions};
use wharf_testkit::{TinyModel, fixtures};

use super::compare::{self, blocks, divergence, largest};
use super::support::gpu;
use crate::driver::Gpu;
use crate::{CudaBackend, CudaOptions};

const OPTIONS: CudaOptions = CudaOptions { kv_tokens: 512, max_batch_tokens: 160, threads: 2 };

fn cuda(model: Model, schedule: u64, multiprocessors: u32) -> CudaBackend {
    CudaBackend::load(gpu(schedule, multiprocessors), model, &OPTIONS, &mut |_, _| {}).unwrap()
}

fn run(backend: &mut dyn Backend, chunks: &[Chunk<'_>]) -> Vec<f32> {
    compare::run(backend, chunks).unwrap()
}

fn conversation(backend: &mut dyn Backend) -> Vec<f32> {
    compare::conversation(backend).unwrap()
}

#[test]
fn every_architecture_gives_the_logits_of_transformers() {
    let mut folders: Vec<_> = std::fs::read_dir(fixtures::models())
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
        let context_length = json["context"].as_u64().map(|context| context as usize);
        let bytes = std::fs::read(folder.join("logits.f32")).unwrap();
        let reference: &[f32] =
            &bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>();
        // Weights, activations and keys of half precision; bfloat16 has three bits less. What is wrong by more than rounding is wrong by as much as
        // logits differ: 1.7.
        let (most, most_kl) = if folder.ends_with("qwen2-bf16") { (0.2, 2e-3) } else { (0.08, 1e-4) };
        let gguf = folder.join("model.gguf");
        for path in [folder, &gguf].into_iter().filter(|path| path.exists()) {
            let model = Model::open_with(path, OpenOptions { context_length }).unwrap();
            let mut backend = cuda(model, 0, 4);
            let table = blocks(3, 16);
            for size in [64, 7] {
                let found: Vec<f32> = tokens
                    .chunks(size)
                    .enumerate()
                    .flat_map(|(index, tokens)| {
                        let logits = LogitsFor::All;
                        run(&mut backend, &[Chunk { tokens, start: index * size, blocks: &table, logits }])
                    })
                    .collect();
                let error = largest(&found, reference);
                let kl = divergence(reference, &found, reference.len() / tokens.len());
                if error.is_nan() || error > most || kl > most_kl {
                    wrong
                        .push(format!("{} in chunks of {size}: off by {error}, KL {kl:.1e}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn tiny(model: &TinyModel) -> (tempfile::TempPath, Model) {
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap().into_temp_path();
    model.write(&file).unwrap();
    let opened = open(&file);
    (file, opened)
}

fn open(path: &Path) -> Model {
    Model::open(path).unwrap()
}

#[test]
fn batches_of_prompts_and_single_tokens_give_what_the_cpu_gives() {
    let base = TinyModel { ffn_size: 160, ..TinyModel::default() };
    let models = [
        TinyModel { dtype: DType::F16, embedding_dtype: DType::F16, ..base.clone() },
        TinyModel { dtype: DType::BF16, embedding_dtype: DType::BF16, ..base.clone() },
        TinyModel { dtype: DType::Q8_0, embedding_dtype: DType::Q8_0, tied: false, ..base.clone() },
        TinyModel { dtype: DType::Q4_0, embedding_dtype: DType::Q8_0, n_kv_heads: 1, ..base.clone() },
        TinyModel { dtype: DType::Q4_1, embedding_dtype: DType::F32, window: Some(33), ..base.clone() },
        TinyModel { n_heads: 2, n_kv_heads: 2, ..base },
    ];
    for model in models {
        let (path, opened) = tiny(&model);
        let options = CpuOptions { kv_tokens: 512, kv_type: KvType::F32, ..CpuOptions::default() };
        let mut cpu = CpuBackend::load(open(&path), &options, &mut |_, _| {}).unwrap();
        let expected = conversation(&mut cpu);
        // Few multiprocessors keep attention in one piece, many split it.
        for multiprocessors in [2, 64] {
            let mut backend = cuda(open(&path), 0, multiprocessors);
            let found = conversation(&mut backend);
            let kl = divergence(&expected, &found, opened.config.vocab_size);
            // Where weights are integers the CPU rounds activations to integers too, and is further from the truth than the GPU.
            let most = if matches!(model.dtype, DType::F32 | DType::F16) { 1e-5 } else { 3e-3 };
            assert!(kl.is_finite() && kl < most, "{} on {multiprocessors}: KL {kl:.1e}", model.dtype);
            assert_eq!(backend.graphs(), 1, "tokens of two sequences are one recorded pass");
            // And again: over keys and values of other blocks than before, through the recorded pass.
            assert_eq!(conversation(&mut backend), found, "the same batches give the same bits");
        }
    }
}

#[test]
fn no_order_of_threads_changes_a_model() {
    let (file, model) = tiny(&TinyModel { dtype: DType::Q4_0, ..TinyModel::default() });
    let mut first = cuda(model, 0, 64);
    let mut other = cuda(open(&file), 99, 64);
    assert_eq!(conversation(&mut first), conversation(&mut other));
}

#[test]
fn more_shared_blocks_than_foreseen_are_sent_too() {
    let (_file, model) = tiny(&TinyModel { context_length: 64, ..TinyModel::default() });
    let options = CudaOptions { max_batch_tokens: 64, ..OPTIONS };
    let mut backend = CudaBackend::load(gpu(0, 4), model, &options, &mut |_, _| {}).unwrap();
    let shared = blocks(0, 10);
    let prompt = [7; 60];
    run(&mut backend, &[Chunk { tokens: &prompt, start: 0, blocks: &shared, logits: LogitsFor::None }]);
    // Each reads ten blocks: far more entries than rows of a pass.
    let own: Vec<Vec<BlockId>> =
        (0..20).map(|i| shared[..3].iter().copied().chain([BlockId(10 + i)]).collect()).collect();
    let long: Vec<Vec<BlockId>> =
        own.iter().map(|blocks| blocks.iter().cycle().take(200).copied().collect()).collect();
    let chunks: Vec<Chunk<'_>> = long
        .iter()
        .map(|blocks| Chunk { tokens: &[5], start: 3000, blocks, logits: LogitsFor::Last })
        .collect();
    let first = run(&mut backend, &chunks);
    for _ in 0..2 {
        assert_eq!(run(&mut backend, &chunks), first);
    }
}

#[test]
fn a_batch_that_breaks_the_contract_is_refused() {
    let (_file, model) = tiny(&TinyModel::default());
    let mut backend = cuda(model, 0, 4);
    let table = blocks(0, 1);
    let chunk = Chunk { tokens: &[1; 17], start: 0, blocks: &table, logits: LogitsFor::Last };
    let refused = backend.forward(&[chunk], &mut Logits::default());
    assert!(matches!(refused, Err(BackendError::InvalidBatch(_))), "{refused:?}");
    assert_eq!((backend.kv_blocks(), backend.max_batch_tokens()), (512 / BLOCK_TOKENS, 160));
}

#[test]
fn a_gpu_that_is_lost_is_lost_for_good_and_says_why() {
    let (_file, model) = tiny(&TinyModel::default());
    let gpu = FakeGpu { lost_after: Some(30), ..FakeGpu::default() };
    let gpu = Gpu::open(FakeCuda::of_this_process().add(gpu).unwrap()).unwrap();
    let mut backend = CudaBackend::load(gpu, model, &OPTIONS, &mut |_, _| {}).unwrap();
    let table = blocks(0, 4);
    let mut pass = |start| {
        let chunk = Chunk { tokens: &[1], start, blocks: &table, logits: LogitsFor::Last };
        backend.forward(&[chunk], &mut Logits::default())
    };
    let failed = (0..10).find_map(|start| pass(start).err()).expect("a pass takes more than three launches");
    let BackendError::Lost(why) = &failed else { panic!("{failed:?}") };
    assert!(why.contains("lost") && why.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{why}");
    assert!(matches!(pass(0), Err(BackendError::Lost(_))), "nothing comes back");
}

#[test]
fn a_gpu_without_room_says_how_much_is_missing() {
    let (_file, model) = tiny(&TinyModel::default());
    let gpu = FakeGpu { memory: 1 << 20, used: 1 << 19, ..FakeGpu::default() };
    let gpu = Gpu::open(FakeCuda::of_this_process().add(gpu).unwrap()).unwrap();
    let options = CudaOptions { kv_tokens: 1 << 20, ..OPTIONS };
    let Err(error) = CudaBackend::load(gpu, model, &options, &mut |_, _| {}) else {
        panic!("there is no room")
    };
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("no room for") && why.contains("are free"), "{error}: {why}");
}
