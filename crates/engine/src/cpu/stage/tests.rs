//! What a stage promises of the memory that it computes in.

use wharf_testkit::TinyModel;

use super::*;
use crate::backend::{BlockId, LogitsFor};

#[test]
fn layers_work_in_the_memory_of_the_logits_whatever_is_left_there() {
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    TinyModel::default().write(file.path()).unwrap();
    let model = Model::open(file.path()).unwrap();
    let options = CpuOptions { threads: 2, kv_tokens: 16, ..CpuOptions::default() };
    let share = Share::whole(&model.config);
    let mut stage = CpuStage::load(&model, share, &options, &mut |_, _| {}).unwrap();
    let chunk = Chunk { tokens: &[7, 8, 9], start: 0, blocks: &[BlockId(0)], logits: LogitsFor::All };
    let mut bits = |logits: &mut Logits| -> Vec<u32> {
        stage.forward(&[chunk], Entering::Tokens, logits).unwrap();
        assert_eq!(stage.buffers.block.capacity(), 0, "memory beside that of the logits");
        logits.values().iter().map(|x| x.to_bits()).collect()
    };
    let expected = bits(&mut Logits::default());
    let mut used = Logits::default();
    used.reset(100, 1000).fill(f32::NAN);
    assert_eq!(bits(&mut used), expected);
    assert_eq!(expected.len(), 3 * model.config.vocab_size);
}
