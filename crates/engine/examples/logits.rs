//! Prints the logits of a text's every position, window after window, for comparison with other engines.
//!
//! `logits MODEL TOKENS WINDOW [CHUNK [KV]]`: TOKENS is a file of little-endian u32, each window of WINDOW tokens is scored from
//! an empty context in chunks of CHUNK (default WINDOW), keys and values stored as KV (default f16). Standard output: the
//! vocabulary size as u32, then one row of little-endian f32 per token.

use std::io::Write as _;
use std::path::Path;

use wharf_engine::cpu::{CpuBackend, CpuOptions, KvType};
use wharf_engine::{BLOCK_TOKENS, Backend as _, BlockId, Chunk, Logits, LogitsFor};
use wharf_model::Model;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, tokens, window, rest @ ..] = arguments.as_slice() else {
        return Err("usage: logits MODEL TOKENS WINDOW [CHUNK [KV]]".into());
    };
    let window: usize = window.parse()?;
    let chunk: usize = rest.first().map_or(Ok(window), |chunk| chunk.parse())?;
    let kv_type = match rest.get(1) {
        None => KvType::F16,
        Some(name) => KvType::by_name(name).ok_or("KV is f16, f32 or int8")?,
    };
    let tokens: Vec<u32> =
        std::fs::read(tokens)?.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();

    let model = Model::open(Path::new(model))?;
    let options = CpuOptions { kv_tokens: window, kv_type, max_batch_tokens: chunk, ..CpuOptions::default() };
    let mut backend = CpuBackend::load(model, &options, &mut |_, _| {})?;
    let blocks: Vec<BlockId> = (0..window.div_ceil(BLOCK_TOKENS) as u32).map(BlockId).collect();

    let mut out = std::io::stdout().lock();
    out.write_all(&u32::try_from(backend.vocab_size())?.to_le_bytes())?;
    let mut logits = Logits::default();
    for window in tokens.chunks(window) {
        for (index, tokens) in window.chunks(chunk).enumerate() {
            let chunk = Chunk { tokens, start: index * chunk, blocks: &blocks, logits: LogitsFor::All };
            backend.forward(&[chunk], &mut logits)?;
            let bytes: Vec<u8> = logits.values().iter().flat_map(|x| x.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
    }
    Ok(())
}
