//! Prints how fast a model prefills and decodes on this machine.
//!
//! `throughput MODEL [THREADS]`: prefill of 128, 512 and 2048 tokens from an empty context, then decoding of 1, 8 and 32 streams
//! from a context of 64 tokens; the median of three runs each, in tokens per second.
#![expect(clippy::print_stdout, reason = "a table for a person at a terminal")]

use std::path::Path;
use std::time::Instant;

use wharf_engine::cpu::{CpuBackend, CpuOptions};
use wharf_engine::{BLOCK_TOKENS, Backend as _, BlockId, Chunk, Logits, LogitsFor};
use wharf_model::Model;

const CONTEXT: usize = 64;
const STEPS: usize = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: throughput MODEL [THREADS]")?;
    let defaults = CpuOptions::default();
    let options = CpuOptions {
        threads: arguments.next().map_or(Ok(defaults.threads), |n| n.parse())?,
        kv_tokens: 4096,
        ..defaults
    };
    let started = Instant::now();
    let mut backend = CpuBackend::load(Model::open(Path::new(&path))?, &options, &mut |_, _| {})?;
    let (bytes, threads) = (backend.weight_bytes() as f64 / 1e6, options.threads);
    println!(
        "loaded in {:.3} s: {bytes:.1} MB of weights, {threads} threads, {}",
        started.elapsed().as_secs_f64(),
        options.isa.name()
    );
    for tokens in [128, 512, 2048] {
        let rate = median(|| prefill(&mut backend, tokens));
        println!("prefill {tokens:5} tokens   {rate:9.1} tok/s");
    }
    for streams in [1, 8, 32] {
        let rate = median(|| decode(&mut backend, streams));
        println!("decode  {streams:5} streams  {rate:9.1} tok/s");
    }
    Ok(())
}

fn median(mut run: impl FnMut() -> f64) -> f64 {
    let mut rates = [run(), run(), run()];
    rates.sort_by(f64::total_cmp);
    rates[1]
}

fn blocks(first: usize, tokens: usize) -> Vec<BlockId> {
    (0..tokens.div_ceil(BLOCK_TOKENS)).map(|block| BlockId((first + block) as u32)).collect()
}

fn prompt(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|i| 100 + i * 7919 % 5000).collect()
}

fn prefill(backend: &mut CpuBackend, tokens: usize) -> f64 {
    let (prompt, blocks) = (prompt(tokens), blocks(0, tokens));
    let mut logits = Logits::default();
    let started = Instant::now();
    let width = backend.max_batch_tokens();
    for (index, part) in prompt.chunks(width).enumerate() {
        let last = (index + 1) * width >= tokens;
        let logits_for = if last { LogitsFor::Last } else { LogitsFor::None };
        let chunk = Chunk { tokens: part, start: index * width, blocks: &blocks, logits: logits_for };
        backend.forward(&[chunk], &mut logits).expect("the batch is valid");
    }
    tokens as f64 / started.elapsed().as_secs_f64()
}

fn decode(backend: &mut CpuBackend, streams: usize) -> f64 {
    let per_stream = (CONTEXT + STEPS).div_ceil(BLOCK_TOKENS);
    let tables: Vec<Vec<BlockId>> = (0..streams).map(|i| blocks(i * per_stream, CONTEXT + STEPS)).collect();
    let (prompt, mut logits) = (prompt(CONTEXT), Logits::default());
    for blocks in &tables {
        let chunk = Chunk { tokens: &prompt, start: 0, blocks, logits: LogitsFor::Last };
        backend.forward(&[chunk], &mut logits).expect("the batch is valid");
    }
    let started = Instant::now();
    for step in 0..STEPS {
        let chunks: Vec<Chunk<'_>> = tables
            .iter()
            .map(|blocks| Chunk {
                tokens: &prompt[..1],
                start: CONTEXT + step,
                blocks,
                logits: LogitsFor::Last,
            })
            .collect();
        backend.forward(&chunks, &mut logits).expect("the batch is valid");
    }
    (streams * STEPS) as f64 / started.elapsed().as_secs_f64()
}
