//! Logits are identical to the bit whatever the batch, the chunking, the blocks, the threads, preemption, prefix hits or guesses.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wharf_engine::cpu::{CpuBackend, CpuOptions, KvType};
use wharf_engine::{
    BLOCK_TOKENS, Backend as _, BlockId, Chunk, EngineConfig, Event, Logits, LogitsFor, Request,
    SamplingParams, Speculation, StopConditions, Totals, start,
};
use wharf_kernels::{DType, Isa};
use wharf_model::Model;
use wharf_testkit::TinyModel;

const KV_TOKENS: usize = 1024;

pub(super) fn tiny(dtype: DType) -> TinyModel {
    // Three query heads share a KV head, and the window of the second variant is no multiple of a page.
    TinyModel {
        dtype,
        embedding_dtype: dtype,
        hidden_size: 96,
        n_heads: 6,
        n_kv_heads: 2,
        ffn_size: 160,
        ..TinyModel::default()
    }
}

fn backend(tiny: &TinyModel, threads: usize, isa: Isa) -> CpuBackend {
    storing(KvType::F16, tiny, threads, isa)
}

fn storing(kv_type: KvType, tiny: &TinyModel, threads: usize, isa: Isa) -> CpuBackend {
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    tiny.write(file.path()).unwrap();
    let model = Model::open(file.path()).unwrap();
    let options = CpuOptions { threads, isa, kv_tokens: KV_TOKENS, kv_type, ..CpuOptions::default() };
    CpuBackend::load(model, &options, &mut |_, _| {}).unwrap()
}

pub(super) fn tokens(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 37 + seed * 101 + i * i % 13) % 288).collect()
}

/// Logits of every token as bits, computed in chunks of the given sizes (the last one repeats).
pub(super) fn scored(
    backend: &mut CpuBackend,
    tokens: &[u32],
    blocks: &[BlockId],
    sizes: &[usize],
) -> Vec<u32> {
    let mut logits = Logits::default();
    let mut bits = Vec::new();
    let mut start = 0;
    let mut sizes = sizes.iter().chain(std::iter::repeat(sizes.last().unwrap()));
    while start < tokens.len() {
        let end = tokens.len().min(start + sizes.next().unwrap());
        let chunk = Chunk { tokens: &tokens[start..end], start, blocks, logits: LogitsFor::All };
        backend.forward(&[chunk], &mut logits).unwrap();
        bits.extend(logits.values().iter().map(|x| x.to_bits()));
        start = end;
    }
    bits
}

fn in_order() -> Vec<BlockId> {
    (0..(KV_TOKENS / BLOCK_TOKENS) as u32).map(BlockId).collect()
}

#[test]
fn chunks_threads_blocks_and_instruction_sets_do_not_change_a_bit() {
    let types = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1];
    let windowed = TinyModel { window: Some(37), ..tiny(DType::Q8_0) };
    let halves = types.map(tiny).into_iter().chain([windowed.clone()]).map(|tiny| (tiny, KvType::F16));
    let others =
        [(tiny(DType::Q8_0), KvType::Int8), (windowed, KvType::Int8), (tiny(DType::F32), KvType::F32)];
    for (tiny, kv_type) in halves.chain(others) {
        let backend = |tiny: &TinyModel, threads, isa| storing(kv_type, tiny, threads, isa);
        // Longer than one range of attention, so that ranges are merged.
        let tokens = tokens(300, 1);
        let expected = scored(&mut backend(&tiny, 1, Isa::detect()), &tokens, &in_order(), &[300]);
        let what = format!("{} {:?} with {kv_type} keys and values", tiny.dtype, tiny.window);
        for (threads, sizes) in
            [(1, &[7][..]), (2, &[300]), (3, &[1, 2, 60, 13]), (2, &[128]), (2, &[290, 1]), (3, &[255, 2])]
        {
            let found = scored(&mut backend(&tiny, threads, Isa::detect()), &tokens, &in_order(), sizes);
            assert!(found == expected, "{what} with {threads} threads in chunks of {sizes:?}");
        }
        let scattered: Vec<BlockId> = in_order().into_iter().rev().collect();
        let found = scored(&mut backend(&tiny, 2, Isa::detect()), &tokens, &scattered, &[50]);
        assert!(found == expected, "{what} in scattered blocks");
        for isa in Isa::available() {
            let found = scored(&mut backend(&tiny, 2, isa), &tokens[..40], &in_order(), &[9]);
            // Instruction sets add products of BF16 in orders of their own.
            let same = tiny.dtype != DType::BF16;
            let alone = scored(&mut backend(&tiny, 2, isa), &tokens[..40], &in_order(), &[40]);
            assert!(found == alone && (!same || found == expected[..40 * 288]), "{what} on {}", isa.name());
        }
    }
}

#[test]
fn neighbours_in_the_batch_do_not_change_a_bit() {
    for kv_type in KvType::ALL {
        neighbours_do_not_change_a_bit(storing(kv_type, &tiny(DType::Q4_0), 2, Isa::detect()));
    }
}

fn neighbours_do_not_change_a_bit(mut backend: CpuBackend) {
    let sequences: Vec<Vec<u32>> =
        [40, 1, 3, 17, 290].iter().zip(0..).map(|(n, seed)| tokens(*n, seed)).collect();
    let mut free = in_order().into_iter();
    let blocks: Vec<Vec<BlockId>> = sequences
        .iter()
        .map(|tokens| free.by_ref().take(tokens.len().div_ceil(BLOCK_TOKENS)).collect())
        .collect();
    let alone: Vec<Vec<u32>> = sequences
        .iter()
        .zip(&blocks)
        .map(|(tokens, blocks)| scored(&mut backend, tokens, blocks, &[512]))
        .collect();
    let chunks: Vec<Chunk<'_>> = sequences
        .iter()
        .zip(&blocks)
        .map(|(tokens, blocks)| Chunk { tokens, start: 0, blocks, logits: LogitsFor::All })
        .collect();
    let mut logits = Logits::default();
    backend.forward(&chunks, &mut logits).unwrap();
    let together: Vec<u32> = logits.values().iter().map(|x| x.to_bits()).collect();
    assert!(together == alone.concat());
}

#[test]
fn an_invalid_batch_is_refused() {
    let mut backend = backend(&tiny(DType::F32), 1, Isa::detect());
    let blocks = in_order();
    let mut refused = |tokens: &[u32], start: usize, blocks: &[BlockId]| {
        let chunk = Chunk { tokens, start, blocks, logits: LogitsFor::Last };
        backend.forward(&[chunk], &mut Logits::default()).unwrap_err().to_string()
    };
    assert_eq!(refused(&[], 0, &blocks), "invalid batch: a chunk has no tokens");
    assert_eq!(refused(&[288], 0, &blocks), "invalid batch: token 288 is outside the vocabulary of 288");
    assert_eq!(refused(&[1, 2], 15, &blocks[..1]), "invalid batch: 1 blocks do not hold 17 positions");
    assert_eq!(refused(&[1], 0, &[BlockId(64)]), "invalid batch: there is no KV block 64");
    assert_eq!(refused(&[1; 513], 0, &blocks), "invalid batch: 513 tokens, more than max_batch_tokens 512");
}

/// What a request saw: its tokens, and a hash of the logits of each.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    tokens: Vec<u32>,
    logits: Vec<u64>,
}

/// A submitted request's ear: tokens until `None`, and a hash of the logits of each.
struct Stream {
    tokens: Receiver<Option<u32>>,
    logits: Arc<Mutex<Vec<u64>>>,
}

fn request(prompt: Vec<u32>, max_tokens: usize, seed: u64) -> (Request, Stream) {
    let (sender, receiver) = channel();
    let hashes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&hashes);
    let request = Request {
        prompt,
        // Every second request samples: its draws must not depend on its company either.
        sampling: SamplingParams {
            temperature: (seed % 2) as f32,
            top_p: 0.9,
            seed,
            ..SamplingParams::default()
        },
        stop: StopConditions {
            max_tokens,
            min_tokens: 0,
            stop_tokens: vec![],
            eos_tokens: vec![],
            ignore_eos: true,
        },
        logprobs: None,
        cache_salt: 0,
        logits_hook: Some(Box::new(move |_, logits| {
            let mut hasher = DefaultHasher::new();
            logits.iter().for_each(|x| x.to_bits().hash(&mut hasher));
            seen.lock().unwrap().push(hasher.finish());
        })),
        sink: Box::new(move |event| {
            let message = match event {
                Event::Token { token, .. } => Some(token),
                Event::Finished { .. } => None,
                Event::Failed { message } | Event::Lost { message } => panic!("{message}"),
            };
            // The receiver is gone only when the test has failed already.
            if sender.send(message).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }),
    };
    (request, Stream { tokens: receiver, logits: hashes })
}

fn collect(stream: &Stream) -> Seen {
    let tokens = std::iter::from_fn(|| stream.tokens.recv().expect("the engine reports every end")).collect();
    Seen { tokens, logits: stream.logits.lock().unwrap().clone() }
}

#[test]
fn sixty_four_streams_on_too_little_memory_see_the_logits_they_see_alone() {
    crowd(KvType::F16);
}

#[test]
fn sixty_four_streams_with_bytes_for_keys_and_values_do_so_too() {
    crowd(KvType::Int8);
}

fn crowd(kv_type: KvType) {
    let tiny = tiny(DType::Q4_0);
    let config = EngineConfig {
        max_model_len: 320,
        max_running: 32,
        max_batch_tokens: 128,
        prefill_tokens_while_decoding: 48,
        // Chunks follow the time that steps happen to take: no token may.
        inter_token_latency_target: Some(Duration::from_millis(5)),
        max_waiting: 64,
        prefix_caching: true,
        speculation: Speculation::UpTo(4),
    };
    // Prompts share beginnings, so that some are served from the cache.
    let prompts: Vec<(Vec<u32>, usize)> = (0..64u32)
        .map(|i| (tokens(20 + (i as usize * 29) % 230, i % 5), 1 + (i as usize * 13) % 64))
        .collect();
    let run = |config: EngineConfig, together: bool| -> (Vec<Seen>, Totals) {
        let engine = start(Box::new(storing(kv_type, &tiny, 2, Isa::detect())), config).unwrap();
        let mut seen = Vec::new();
        let mut streams = Vec::new();
        for (index, (prompt, max_tokens)) in prompts.iter().enumerate() {
            let (request, stream) = request(prompt.clone(), *max_tokens, index as u64);
            engine.submit(request).unwrap();
            if together {
                streams.push(stream);
            } else {
                seen.push(collect(&stream));
            }
        }
        seen.extend(streams.iter().map(collect));
        assert_eq!(engine.snapshot().kv_blocks_used, 0);
        (seen, engine.snapshot().totals)
    };
    let (together, totals) = run(config, true);
    let plain = EngineConfig { prefix_caching: false, speculation: Speculation::Off, ..config };
    let (alone, _) = run(plain, false);
    assert!(totals.preemptions > 0, "the memory was meant to be too small");
    let right = totals.accepted_draft_tokens;
    assert!(0 < right && right < totals.draft_tokens, "some guesses were meant to be right: {totals:?}");
    for (index, (together, alone)) in together.iter().zip(&alone).enumerate() {
        assert_eq!(together.tokens.len(), prompts[index].1);
        assert_eq!(together, alone, "stream {index}");
    }
}

#[test]
fn a_block_written_twice_in_a_batch_is_refused() {
    let mut backend = backend(&tiny(DType::F32), 1, Isa::detect());
    let chunk = Chunk { tokens: &[1], start: 0, blocks: &[BlockId(3)], logits: LogitsFor::Last };
    let error = backend.forward(&[chunk, chunk], &mut Logits::default()).unwrap_err();
    assert_eq!(error.to_string(), "invalid batch: two chunks write KV block 3");
}

#[test]
fn kv_memory_that_the_system_does_not_have_is_an_error() {
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    tiny(DType::F32).write(file.path()).unwrap();
    let options = CpuOptions { kv_tokens: usize::MAX / 4, ..CpuOptions::default() };
    let error = CpuBackend::load(Model::open(file.path()).unwrap(), &options, &mut |_, _| {}).err().unwrap();
    assert!(error.to_string().contains("for the KV cache"), "{error}");
}
