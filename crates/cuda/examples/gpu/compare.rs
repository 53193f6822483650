//! Decides what two backends are asked, and how far apart their answers are. Tests of the crate ask the same.

use wharf_engine::{BLOCK_TOKENS, Backend, BackendError, BlockId, Chunk, Logits, LogitsFor};

/// Tokens that every model here knows are below this.
const TOKENS: u32 = 280;

/// `count` blocks from `from` on, the last one first: what follows in a sequence need not follow in memory.
pub(crate) fn blocks(from: u32, count: u32) -> Vec<BlockId> {
    (from..from + count).rev().map(BlockId).collect()
}

/// Tokens that differ from seed to seed.
pub(crate) fn tokens(seed: u32, count: u32) -> Vec<u32> {
    (0..count).map(|i| (seed + 37 * i) % TOKENS).collect()
}

/// Logits of one pass.
pub(crate) fn run(backend: &mut dyn Backend, chunks: &[Chunk<'_>]) -> Result<Vec<f32>, BackendError> {
    let mut logits = Logits::default();
    backend.forward(chunks, &mut logits)?;
    Ok(logits.values().to_vec())
}

fn chunk<'a>(tokens: &'a [u32], start: usize, blocks: &'a [BlockId], logits: LogitsFor) -> Chunk<'a> {
    Chunk { tokens, start, blocks, logits }
}

/// Two prompts, then some tokens of each, as a scheduler has them computed: logits of every pass. Takes 19 blocks and passes of 110 tokens.
pub(crate) fn conversation(backend: &mut dyn Backend) -> Result<Vec<f32>, BackendError> {
    let (a, b) = (tokens(1, 130), tokens(2, 25));
    let (blocks_a, blocks_b) = (blocks(0, 12), blocks(14, 5));
    let mut all = run(
        backend,
        &[chunk(&a[..90], 0, &blocks_a, LogitsFor::None), chunk(&b[..20], 0, &blocks_b, LogitsFor::Last)],
    )?;
    all.extend(run(backend, &[chunk(&a[90..], 90, &blocks_a, LogitsFor::All)])?);
    all.extend(run(backend, &[chunk(&b[20..], 20, &blocks_b, LogitsFor::Last)])?);
    for step in 0..6 {
        let (next_a, next_b) = ([step as u32 + 5], [step as u32 + 9]);
        all.extend(run(
            backend,
            &[
                chunk(&next_a, 130 + step, &blocks_a, LogitsFor::Last),
                chunk(&next_b, 25 + step, &blocks_b, LogitsFor::Last),
            ],
        )?);
    }
    Ok(all)
}

/// `count` sequences of three tokens each in one pass, then `steps` passes of one token each: logits of every pass. Takes `count` blocks.
pub(crate) fn crowd(backend: &mut dyn Backend, count: u32, steps: usize) -> Result<Vec<f32>, BackendError> {
    let prompts: Vec<Vec<u32>> = (0..count).map(|seed| tokens(seed, 3)).collect();
    let own: Vec<Vec<BlockId>> = (0..count).map(|block| blocks(block, 1)).collect();
    let chunks: Vec<Chunk<'_>> =
        prompts.iter().zip(&own).map(|(tokens, blocks)| chunk(tokens, 0, blocks, LogitsFor::Last)).collect();
    let mut all = run(backend, &chunks)?;
    for step in 0..steps {
        let next: Vec<[u32; 1]> = (0..count).map(|seed| [(11 * seed + step as u32) % TOKENS]).collect();
        let each = next.iter().zip(&own);
        let chunks: Vec<Chunk<'_>> =
            each.map(|(token, blocks)| chunk(token, 3 + step, blocks, LogitsFor::Last)).collect();
        all.extend(run(backend, &chunks)?);
    }
    Ok(all)
}

/// A long prompt in pieces, then one token after the other: logits of the last piece and of these.
pub(crate) fn long(backend: &mut dyn Backend, length: usize, steps: usize) -> Result<Vec<f32>, BackendError> {
    let prompt = tokens(3, length as u32);
    let table = blocks(0, (length + steps).div_ceil(BLOCK_TOKENS) as u32);
    let piece = backend.max_batch_tokens();
    let mut all = Vec::new();
    for (index, tokens) in prompt.chunks(piece).enumerate() {
        all = run(backend, &[chunk(tokens, index * piece, &table, LogitsFor::Last)])?;
    }
    for step in 0..steps {
        all.extend(run(backend, &[chunk(&[step as u32 + 4], length + step, &table, LogitsFor::Last)])?);
    }
    Ok(all)
}

/// The same batch of two single tokens behind a conversation, three times: launched, recorded, replayed.
pub(crate) fn same(backend: &mut dyn Backend) -> Result<[Vec<f32>; 3], BackendError> {
    let (blocks_a, blocks_b) = (blocks(0, 12), blocks(14, 5));
    let mut pass = || {
        run(
            backend,
            &[
                // Shorter than anything that a conversation replays: a shape of its own.
                chunk(&[7], 40, &blocks_a[..3], LogitsFor::Last),
                chunk(&[8], 10, &blocks_b[..1], LogitsFor::Last),
            ],
        )
    };
    Ok([pass()?, pass()?, pass()?])
}

/// Mean KL divergence of the distributions over the next token; each row has `vocab` logits.
pub(crate) fn divergence(reference: &[f32], found: &[f32], vocab: usize) -> f64 {
    let log_softmax = |logits: &[f32]| {
        let most = logits.iter().fold(f32::MIN, |most, x| most.max(*x));
        let total: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
        logits.iter().map(|x| f64::from(x - most) - total.ln()).collect::<Vec<f64>>()
    };
    let rows = reference.len() / vocab;
    let each = reference.chunks(vocab).zip(found.chunks(vocab)).map(|(p, q)| {
        let (p, q) = (log_softmax(p), log_softmax(q));
        p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
    });
    each.sum::<f64>() / rows as f64
}

/// Largest difference; what is no number is no small difference, nor is a number that is missing.
pub(crate) fn largest(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::NAN;
    }
    let errors = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    errors.fold(0.0, |most, error| if error.is_nan() || error > most { error } else { most })
}
