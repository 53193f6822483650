//! Groups of any kind and size say what one process says.

use wharf_engine::{Backend, BlockId, Chunk, Logits, LogitsFor};
use wharf_kernels::DType;
use wharf_ranks::Kind;
use wharf_testkit::TinyModel;

use crate::group::{Over, Ranks, alone, scored, tokens};

/// Nine query heads on three heads of keys and values, which two ranks cannot share evenly and four have to.
fn uneven(dtype: DType) -> TinyModel {
    TinyModel {
        dtype,
        embedding_dtype: dtype,
        hidden_size: 288,
        ffn_size: 352,
        n_heads: 9,
        n_kv_heads: 3,
        ..TinyModel::default()
    }
}

/// Mean KL divergence of rows of logits from others, in nats.
fn divergence(expected: &[f32], found: &[f32]) -> f64 {
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let most = row.iter().fold(f32::MIN, |a, b| a.max(*b));
        let sum: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
        row.iter().map(|x| f64::from(x - most) - sum.ln()).collect()
    };
    let rows = expected.chunks(288).zip(found.chunks(288)).map(|(expected, found)| {
        let (expected, found) = (log_softmax(expected), log_softmax(found));
        expected.iter().zip(&found).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
    });
    rows.sum::<f64>() / (expected.len() / 288) as f64
}

/// The best token, and by how much.
fn best(row: &[f32]) -> (usize, f32) {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
    (order[0], row[order[0]] - row[order[1]])
}

#[test]
fn tensor_parallel_ranks_choose_the_tokens_of_one() {
    let tokens = tokens(200);
    for dtype in [DType::F32, DType::F16, DType::Q8_0, DType::Q4_0] {
        let tiny = TinyModel { tied: dtype != DType::F16, ..uneven(dtype) };
        let expected = scored(&mut *alone(&tiny), &tokens, 64);
        let over = if dtype == DType::F16 { Over::Connections } else { Over::Memory };
        for size in [2, 3, 4] {
            let mut ranks = Ranks::start(&tiny, Kind::Tensor, size, over);
            let found = scored(&mut *ranks.leader, &tokens, 64);
            ranks.end();
            let apart = divergence(&expected, &found);
            let what = format!("{dtype} on {size} ranks over {over:?}: KL {apart:e}");
            if matches!(dtype, DType::F32 | DType::F16) {
                assert!(apart < 1e-6, "{what}");
                for (expected, found) in expected.chunks(288).zip(found.chunks(288)) {
                    let (token, gap) = best(expected);
                    assert!(gap <= 1e-3 || best(found).0 == token, "{what}");
                }
            } else {
                assert!(apart < 1e-3, "{what}");
            }
        }
    }
}

#[test]
fn sums_over_connections_and_memory_are_the_same_bits_and_chunks_change_none() {
    let (tiny, tokens) = (uneven(DType::Q8_0), tokens(100));
    let score = |over, size| {
        let mut ranks = Ranks::start(&tiny, Kind::Tensor, 3, over);
        let found: Vec<u32> = scored(&mut *ranks.leader, &tokens, size).iter().map(|x| x.to_bits()).collect();
        ranks.end();
        found
    };
    let expected = score(Over::Memory, 100);
    for (over, size) in [(Over::Memory, 7), (Over::Connections, 100), (Over::Connections, 33)] {
        assert!(score(over, size) == expected, "over {over:?} in chunks of {size}");
    }
}

#[test]
fn a_pipeline_says_what_one_process_says_to_the_bit() {
    let tiny = TinyModel { n_layers: 5, ..uneven(DType::Q8_0) };
    let (long, short) = (tokens(100), tokens(3));
    let blocks: Vec<BlockId> = (0..32).map(BlockId).collect();
    // One prompt that is cut into micro-batches, beside streams that want their last or all tokens' logits.
    let run = |backend: &mut dyn Backend| -> Vec<u32> {
        let mut logits = Logits::default();
        let mut bits = Vec::new();
        for start in 0..4 {
            let chunk = |tokens, start, blocks, logits| Chunk { tokens, start, blocks, logits };
            let chunks = [
                chunk(&short[..1], start, &blocks[..4], LogitsFor::Last),
                chunk(&long, 100 * start, &blocks[4..30], LogitsFor::Last),
                chunk(&short, 3 * start, &blocks[30..], LogitsFor::All),
            ];
            backend.forward(&chunks, &mut logits).unwrap();
            assert_eq!(logits.data.len(), 5 * 288);
            bits.extend(logits.data.iter().map(|x| x.to_bits()));
        }
        bits
    };
    let expected = run(&mut *alone(&tiny));
    for size in [2, 3, 5] {
        let mut ranks = Ranks::start(&tiny, Kind::Pipeline, size, Over::Connections);
        assert!(run(&mut *ranks.leader) == expected, "{size} stages");
        ranks.end();
    }
}

#[test]
fn a_batch_that_no_rank_can_compute_harms_nobody() {
    let tiny = uneven(DType::F32);
    for (kind, over) in [(Kind::Tensor, Over::Memory), (Kind::Pipeline, Over::Connections)] {
        let mut ranks = Ranks::start(&tiny, kind, 2, over);
        let expected = scored(&mut *ranks.leader, &tokens(5), 5);
        let chunk = Chunk { tokens: &[1], start: 0, blocks: &[BlockId(3)], logits: LogitsFor::Last };
        let error = ranks.leader.forward(&[chunk, chunk], &mut Logits::default()).unwrap_err();
        assert_eq!(error.to_string(), "invalid batch: two chunks write KV block 3");
        let unknown = Chunk { tokens: &[9999], ..chunk };
        let error = ranks.leader.forward(&[unknown], &mut Logits::default()).unwrap_err();
        assert!(error.to_string().contains("outside the vocabulary"), "{error}");
        assert!(scored(&mut *ranks.leader, &tokens(5), 5) == expected);
        ranks.end();
    }
}
