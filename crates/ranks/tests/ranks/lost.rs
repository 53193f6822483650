//! Ranks stand or fall together.

use wharf_engine::{BackendError, BlockId, Chunk, Logits, LogitsFor};
use wharf_ranks::{Ending, Kind, WorkerError};
use wharf_testkit::TinyModel;

use crate::group::{Over, PATIENCE, Ranks};

#[test]
fn a_lost_rank_ends_every_other_and_every_later_pass() {
    let tiny = TinyModel { n_layers: 3, n_heads: 4, n_kv_heads: 4, ..TinyModel::default() };
    for (kind, over) in
        [(Kind::Tensor, Over::Memory), (Kind::Tensor, Over::Connections), (Kind::Pipeline, Over::Connections)]
    {
        let mut ranks = Ranks::start(&tiny, kind, 3, over);
        ranks.fate.end(Ending::Lost("a test asked for it".into()));
        let chunk = Chunk { tokens: &[1], start: 0, blocks: &[BlockId(0)], logits: LogitsFor::Last };
        let error = ranks.leader.forward(&[chunk], &mut Logits::default()).unwrap_err();
        assert!(matches!(&error, BackendError::Lost(reason) if reason == "a test asked for it"), "{error}");
        for ending in ranks.endings() {
            let Err(WorkerError::Lost(reason)) = ending else { panic!("{kind} worker: {ending:?}") };
            assert_eq!(reason, "the leader has ended: a test asked for it");
        }
    }
}

#[test]
fn an_end_in_order_is_no_error_for_anybody() {
    let ranks = Ranks::start(&TinyModel::default(), Kind::Tensor, 2, Over::Memory);
    let fate = std::sync::Arc::clone(&ranks.fate);
    ranks.end();
    assert_eq!(fate.wait(PATIENCE), Some(Ending::Orderly));
}
