//! Streams whose prompts begin with the same blocks attend to these together, and their logits are those of a stream that has
//! everything to itself.

use wharf_engine::cpu::{CpuBackend, CpuOptions, KvType};
use wharf_engine::{BLOCK_TOKENS, Backend as _, BlockId, Chunk, Logits, LogitsFor};
use wharf_kernels::{DType, Isa};
use wharf_model::Model;
use wharf_testkit::TinyModel;

use super::identical::{scored, tiny, tokens};

/// Two chunks of attention and a part of the third.
const PREFIX: usize = 37 * BLOCK_TOKENS;

/// Tokens that streams add to the prefix, and how many of these are computed in the pass that they share.
const STREAMS: [(usize, usize); 7] = [(1, 1), (20, 1), (9, 3), (40, 1), (30, 20), (33, 1), (3, 2)];

/// Everything that must not matter, and what it must not matter for.
#[derive(Clone, Copy, Debug)]
struct Case {
    kv_type: KvType,
    window: Option<u32>,
    softcap: Option<f32>,
    threads: usize,
}

fn backend(case: Case) -> CpuBackend {
    let Case { kv_type, window, softcap, threads } = case;
    // Heads of 40 elements: a block of 32 and one of 8, where keys and values have scales.
    let tiny = TinyModel { hidden_size: 240, window, ..tiny(DType::F32) };
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    tiny.write(file.path()).unwrap();
    let mut model = Model::open(file.path()).unwrap();
    model.config.attn_softcap = softcap;
    let options =
        CpuOptions { threads, isa: Isa::detect(), kv_tokens: 2048, kv_type, ..CpuOptions::default() };
    CpuBackend::load(model, &options, &mut |_, _| {}).unwrap()
}

/// A stream's tokens and blocks, the first of which are everybody's.
fn stream(index: usize) -> (Vec<u32>, Vec<BlockId>) {
    let prefix = tokens(PREFIX, 1);
    let tail = tokens(STREAMS[index].0, 2 + index as u32);
    let own = 40 + 3 * index as u32;
    let blocks = (0..37).chain(own..own + 3).map(BlockId).collect();
    ([prefix, tail].concat(), blocks)
}

#[test]
fn a_common_beginning_does_not_change_a_bit() {
    for kv_type in KvType::ALL {
        for (window, softcap, threads) in [
            (None, None, 1),
            (None, Some(3.0), 2),
            // Some streams still see the whole second chunk, others do not.
            (Some(370), None, 2),
            (Some(500), Some(3.0), 3),
        ] {
            does_not_change_a_bit(Case { kv_type, window, softcap, threads });
        }
    }
}

fn does_not_change_a_bit(case: Case) {
    let mut shared = backend(case);
    let mut alone = backend(Case { threads: 1, ..case });
    let streams: Vec<_> = (0..STREAMS.len()).map(stream).collect();
    let everything: Vec<BlockId> = (0..128).map(BlockId).collect();
    scored(&mut shared, &streams[0].0[..PREFIX], &streams[0].1, &[512]);
    let mut expected = Vec::new();
    let mut together = Vec::new();
    for ((tokens, blocks), (_, last)) in streams.iter().zip(STREAMS) {
        let (start, vocab) = (tokens.len() - last, 288);
        // What comes before the common pass; the prefix is there already.
        if start > PREFIX {
            let chunk =
                Chunk { tokens: &tokens[PREFIX..start], start: PREFIX, blocks, logits: LogitsFor::None };
            shared.forward(&[chunk], &mut Logits::default()).unwrap();
        }
        together.push(Chunk { tokens: &tokens[start..], start, blocks, logits: LogitsFor::All });
        expected.extend_from_slice(&scored(&mut alone, tokens, &everything, &[512])[start * vocab..]);
    }
    let mut logits = Logits::default();
    shared.forward(&together, &mut logits).unwrap();
    let found: Vec<u32> = logits.values().iter().map(|x| x.to_bits()).collect();
    assert!(found == expected, "{case:?}");
}
