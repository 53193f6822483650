//! Quantising what is much larger than memory may be.
#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use wharf_kernels::DType;
use wharf_model::Model;
use wharf_model::gguf::write::{Entry, NewTensor, layout};

/// Memory that the process may allocate, KiB: a quarter of the largest tensor's numbers.
const LIMIT: usize = 224 * 1024;

const WIDTH: usize = 8192;
const FFN: usize = 28_672;
const KV: usize = 1024;

/// A model of two layers of a 70B Llama, all zeros: 3.5 GB of holes.
fn write_zeros(path: &Path) -> u64 {
    let number = |key: &str, value: usize| Entry::new(format!("llama.{key}"), value as u32);
    let entries = [
        Entry::new("general.architecture", "llama"),
        number("block_count", 2),
        number("context_length", 4096),
        number("embedding_length", WIDTH),
        number("feed_forward_length", FFN),
        number("attention.head_count", WIDTH / 128),
        number("attention.head_count_kv", KV / 128),
        Entry::new("llama.attention.layer_norm_rms_epsilon", 1e-5f32),
    ];
    let tensor = |name: String, dtype, shape: &[usize]| NewTensor { name, dtype, shape: shape.to_vec() };
    let mut tensors = vec![
        tensor("token_embd.weight".into(), DType::F16, &[1024, WIDTH]),
        tensor("output_norm.weight".into(), DType::F32, &[WIDTH]),
    ];
    for layer in 0..2 {
        for (name, shape) in [
            ("attn_q", [WIDTH, WIDTH]),
            ("attn_k", [KV, WIDTH]),
            ("attn_v", [KV, WIDTH]),
            ("attn_output", [WIDTH, WIDTH]),
            ("ffn_gate", [FFN, WIDTH]),
            ("ffn_up", [FFN, WIDTH]),
            ("ffn_down", [WIDTH, FFN]),
        ] {
            tensors.push(tensor(format!("blk.{layer}.{name}.weight"), DType::F16, &shape));
        }
        for name in ["attn_norm", "ffn_norm"] {
            tensors.push(tensor(format!("blk.{layer}.{name}.weight"), DType::F32, &[WIDTH]));
        }
    }
    let layout = layout(&entries, &tensors);
    let file = File::create(path).unwrap();
    file.write_all_at(&layout.header, 0).unwrap();
    file.set_len(layout.len).unwrap();
    layout.len
}

#[test]
fn several_gigabytes_are_quantised_in_a_fraction_of_the_largest_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("zeros.gguf"), folder.path().join("q4.gguf"));
    let size = write_zeros(&source);
    assert!(size > 3 << 30, "{size}");
    let quantize = |limit: usize| {
        let script = format!("ulimit -d {limit} && exec \"$@\"");
        Command::new("sh")
            .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_wharf"), "quantize"])
            .arg(&source)
            .arg("-o")
            .arg(&out)
            .args(["--scheme", "q4_0", "--threads", "2"])
            .output()
            .unwrap()
    };
    // The limit is one: with next to nothing allowed the program does not even start.
    assert!(!quantize(1024).status.success());
    let finished = quantize(LIMIT);
    assert!(finished.status.success(), "{}", String::from_utf8_lossy(&finished.stderr));
    assert_eq!(Model::open(&out).unwrap().config.layers.len(), 2);
    assert!(fs::metadata(&out).unwrap().len() < size / 3);
}
