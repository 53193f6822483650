//! Decides how large elements of keys and values are spread over a head before these are rounded to bytes.
//!
//! A scale is that of the largest of its elements, and some elements of keys are far larger than the others. A Walsh-Hadamard
//! matrix, divided by the root of its size, mixes each with all others and keeps lengths and products: queries and keys that
//! are both spread have the scores of before, and what is made of spread values becomes what it was when it is spread once
//! more, because the matrix is its own inverse.
//!
//! Sums of two elements need no order, so the bits are the same however this is compiled.

/// Spreads a head in place. Its size may be any; parts whose size is the largest power of two that divides it are spread apart.
pub(super) fn spread(head: &mut [f32]) {
    let size = 1 << head.len().trailing_zeros();
    let scale = 1.0 / (size as f32).sqrt();
    for part in head.chunks_exact_mut(size) {
        let mut half = 1;
        while half < size {
            for pair in part.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        part.iter_mut().for_each(|x| *x *= scale);
    }
}

#[cfg(test)]
mod tests {
    use wharf_model::Model;
    use wharf_testkit::TinyModel;

    use super::*;
    use crate::backend::{Backend as _, BlockId, Chunk, Logits, LogitsFor};
    use crate::cpu::kv_type::Kv;
    use crate::cpu::{CpuBackend, CpuOptions, KvType};

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.0 - 1.0).collect()
    }

    fn product(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn products_are_kept_and_twice_is_not_at_all() {
        for head_dim in [1, 7, 16, 48, 64, 80, 128, 256] {
            let (a, b) = (numbers(head_dim, 1), numbers(head_dim, 2));
            let (mut c, mut d) = (a.clone(), b.clone());
            spread(&mut c);
            spread(&mut d);
            assert!((product(&a, &b) - product(&c, &d)).abs() < 1e-4, "head of {head_dim}");
            spread(&mut c);
            for (a, c) in a.iter().zip(&c) {
                assert!((a - c).abs() < 1e-5, "head of {head_dim}: {a} became {c}");
            }
        }
    }

    #[test]
    fn a_large_element_is_spread_over_its_part() {
        let mut head = [0.0; 64];
        head[9] = 8.0;
        spread(&mut head);
        assert!(head.iter().all(|x| x.abs() == 1.0));
        // 80 is five times 16.
        let mut head = [0.0; 80];
        head[20] = 4.0;
        spread(&mut head);
        assert!(
            head.iter().enumerate().all(|(i, x)| x.abs() == if (16..32).contains(&i) { 1.0 } else { 0.0 })
        );
    }

    /// What is stored of the first position in the first layer for the first KV head, a key and a value.
    fn stored(kv_type: KvType) -> [Vec<f32>; 2] {
        let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
        TinyModel { hidden_size: 128, ..TinyModel::default() }.write(file.path()).unwrap();
        let options = CpuOptions { threads: 1, kv_tokens: 16, kv_type, ..CpuOptions::default() };
        let mut backend =
            CpuBackend::load(Model::open(file.path()).unwrap(), &options, &mut |_, _| {}).unwrap();
        let chunk = Chunk { tokens: &[7], start: 0, blocks: &[BlockId(0)], logits: LogitsFor::Last };
        backend.forward(&[chunk], &mut Logits::default()).unwrap();
        match backend.stage.kv() {
            Kv::F16(_) => unreachable!("not asked for"),
            Kv::F32(kv) => {
                let pages = kv.pages(&[0], 0, 0);
                [
                    pages.data.iter().step_by(16).take(32).copied().collect(),
                    pages.data[pages.v_offset..][..32].to_vec(),
                ]
            }
            Kv::Int8(kv) => {
                let pages = kv.pages(&[0], 0, 0);
                let scales = pages.scales.unwrap().data;
                let floats = |codes: &mut dyn Iterator<Item = &i8>, scale: f32| -> Vec<f32> {
                    codes.take(32).map(|code| scale * f32::from(*code)).collect()
                };
                [
                    floats(&mut pages.data.iter().step_by(16), scales[0]),
                    floats(&mut pages.data[pages.v_offset..].iter(), scales[16]),
                ]
            }
        }
    }

    #[test]
    fn bytes_are_stored_spread_and_floats_are_not() {
        for (mut float, bytes) in stored(KvType::F32).into_iter().zip(stored(KvType::Int8)) {
            spread(&mut float);
            let most = float.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
            for (float, byte) in float.iter().zip(bytes) {
                assert!((float - byte).abs() <= 0.51 * most / 127.0, "{float} became {byte}");
            }
        }
    }
}
