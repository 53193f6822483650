//! Groups of any kind and size say what one process says.

use wharf_engine::{Backend, BlockId, Chunk, Logits, LogitsFor};
use wharf_kernels::{DType, Rounding};
use wharf_model::Role;
use wharf_ranks::Kind;
use wharf_testkit::{TinyModel, noise};

use crate::compressed::{self, Kept};
use crate::group::{Checkpoint, Over, Ranks, alone, scored, tokens};

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

fn bits(logits: &[f32]) -> Vec<u32> {
    assert!(logits.iter().all(|x| x.is_finite()), "logits are numbers");
    logits.iter().map(|x| x.to_bits()).collect()
}

/// All logits of a prompt in chunks of several sizes, and those of batches.
fn said(backend: &mut dyn Backend) -> Vec<u32> {
    let tokens = tokens(90);
    let mut said: Vec<u32> =
        [33, 90, 7].into_iter().flat_map(|size| bits(&scored(backend, &tokens, size))).collect();
    said.extend(batches(backend));
    said
}

/// Logits of passes with one long prompt beside streams that want their last or all tokens' logits.
fn batches(backend: &mut dyn Backend) -> Vec<u32> {
    let (long, short) = (tokens(100), tokens(3));
    let blocks: Vec<BlockId> = (0..32).map(BlockId).collect();
    let mut logits = Logits::default();
    let mut said = Vec::new();
    for start in 0..3 {
        let chunk = |tokens, start, blocks, logits| Chunk { tokens, start, blocks, logits };
        let chunks = [
            chunk(&short[..1], start, &blocks[..4], LogitsFor::Last),
            chunk(&long, 100 * start, &blocks[4..30], LogitsFor::Last),
            chunk(&short, 3 * start, &blocks[30..], LogitsFor::All),
        ];
        backend.forward(&chunks, &mut logits).unwrap();
        assert_eq!(logits.values().len(), 5 * 288);
        said.extend(bits(logits.values()));
    }
    said
}

/// Groups of some sizes say the very bits of one process.
fn check(what: &str, checkpoint: &Checkpoint, sizes: &[usize]) {
    let expected = said(&mut *alone(checkpoint));
    for (at, size) in sizes.iter().enumerate() {
        let over: &[Over] = match at {
            0 => &[Over::Memory, Over::Connections],
            1 => &[Over::Connections],
            _ => &[Over::Memory],
        };
        for over in over {
            let mut ranks = Ranks::spread(checkpoint, Kind::Tensor, *size, *over);
            assert!(said(&mut *ranks.leader) == expected, "{what} on {size} ranks over {over:?}");
            ranks.end();
        }
    }
}

#[test]
fn ranks_say_the_bits_of_one_process_with_weights_of_floats() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let tiny = TinyModel { tied: dtype != DType::F16, ..uneven(dtype) };
        check(dtype.name(), &Checkpoint::of(&tiny), &[2, 3, 4]);
    }
}

#[test]
fn ranks_say_the_bits_of_one_process_with_weights_in_blocks() {
    for dtype in [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0] {
        let noise = matches!(dtype, DType::Q5_0 | DType::Q5_1);
        check(dtype.name(), &Checkpoint::of(&TinyModel { noise, ..uneven(dtype) }), &[2, 3, 4]);
    }
}

/// Three heads of keys and values with as many query heads as fill a block of 256, and four such blocks in the middle.
fn wide(dtype: DType) -> TinyModel {
    TinyModel {
        dtype,
        embedding_dtype: DType::Q8_0,
        hidden_size: 768,
        ffn_size: 1024,
        n_heads: 6,
        n_kv_heads: 3,
        noise: true,
        ..TinyModel::default()
    }
}

#[test]
fn ranks_say_the_bits_of_one_process_with_k_quants() {
    for dtype in [DType::Q2K, DType::Q3K, DType::Q4K, DType::Q5K, DType::Q6K] {
        check(dtype.name(), &Checkpoint::of(&wide(dtype)), &[2, 3]);
    }
}

#[test]
fn ranks_say_the_bits_of_one_process_where_types_are_mixed() {
    let tiny = wide(DType::Q4K);
    let checkpoint = Checkpoint::new("mixed.gguf", |path| {
        let mut file = tiny.build();
        for (tensor, dtype) in [
            ("blk.0.attn_v.weight", DType::Q6K),
            ("blk.0.ffn_up.weight", DType::Q8_0),
            ("blk.1.attn_output.weight", DType::F16),
            ("blk.1.ffn_down.weight", DType::Q6K),
        ] {
            let tensor = file.tensors.iter_mut().find(|found| found.name == tensor).unwrap();
            let [cols, rows] = [0, 1].map(|at| tensor.dims[at] as usize);
            (tensor.type_id, tensor.data) = (dtype.ggml(), noise(dtype, rows, cols, 5));
        }
        std::fs::write(path, file.bytes()).unwrap();
    });
    check("mixed types", &checkpoint, &[2, 3]);
}

#[test]
fn ranks_say_the_bits_of_one_process_with_compressed_tensors() {
    for (kind, rounding) in [
        (Kept::Int8, Some(Rounding::Rows)),
        (Kept::Int8Static, Some(Rounding::Fixed(0.0625))),
        (Kept::Int4, Some(Rounding::Blocks)),
        (Kept::Fp8, None),
    ] {
        let checkpoint = compressed::write(kind);
        let down = checkpoint.open().weights.matrix(Some(0), Role::Down).unwrap().rounding;
        assert!(rounding.is_none_or(|rounding| down == rounding), "{kind:?}: {down:?}");
        check(&format!("{kind:?}"), &checkpoint, &[2, 3, 4]);
    }
}

#[test]
fn a_pipeline_says_what_one_process_says_to_the_bit() {
    let tiny = TinyModel { n_layers: 5, ..uneven(DType::Q8_0) };
    let expected = batches(&mut *alone(&Checkpoint::of(&tiny)));
    for size in [2, 3, 5] {
        let mut ranks = Ranks::start(&tiny, Kind::Pipeline, size, Over::Connections);
        assert!(batches(&mut *ranks.leader) == expected, "{size} stages");
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
