//! Threads keep to their CPUs when they are told to, and only then; the logits are the same.
#![cfg(target_os = "linux")]

use wharf_engine::cpu::{CpuBackend, CpuOptions, Pinning};
use wharf_engine::{Backend as _, BlockId, Chunk, Logits, LogitsFor};
use wharf_kernels::cpus;
use wharf_model::Model;
use wharf_testkit::TinyModel;

/// Logits of a pass on a thread of its own, and on how many CPUs that thread may run before and after.
fn pass(pinning: Pinning) -> (Vec<u32>, usize, usize) {
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    TinyModel::default().write(file.path()).unwrap();
    let model = Model::open(file.path()).unwrap();
    let options = CpuOptions {
        threads: cpus::allowed().unwrap().len(),
        pinning,
        kv_tokens: 256,
        ..CpuOptions::default()
    };
    let mut backend = CpuBackend::load(model, &options, &mut |_, _| {}).unwrap();
    let caller = std::thread::spawn(move || {
        let before = cpus::allowed().unwrap().len();
        let mut logits = Logits::default();
        let chunk = Chunk { tokens: &[1, 2, 3], start: 0, blocks: &[BlockId(0)], logits: LogitsFor::Last };
        backend.forward(&[chunk], &mut logits).unwrap();
        let bits = logits.values().iter().map(|x| x.to_bits()).collect();
        (bits, before, cpus::allowed().unwrap().len())
    });
    caller.join().unwrap()
}

#[test]
fn the_thread_that_calls_for_passes_is_pinned_when_told_so() {
    let all = cpus::allowed().unwrap().len();
    let (expected, before, after) = pass(Pinning::Off);
    assert_eq!((before, after), (all, all));
    let (logits, before, after) = pass(Pinning::On);
    assert_eq!((before, after), (all, 1));
    assert_eq!(logits, expected);
}
