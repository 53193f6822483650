//! Norms, rotations and what is done to logits.

use super::support::{Random, SCHEDULES, close, floats, floats_on_gpu, gpu, halves, launch, on_gpu, widen};
use crate::driver::{Address, Arg};
use crate::format::{CHUNK, Kind, place};

fn normed(row: &[f32], weight: &[f32], eps: f64) -> Vec<f64> {
    let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / row.len() as f64;
    row.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w) / (mean + eps).sqrt()).collect()
}

#[test]
fn rows_are_normalised_into_what_products_read() {
    for width in [32, 40, 600] {
        for kind in [Kind::Half, Kind::Brain] {
            let bits = SCHEDULES.map(|schedule| {
                let gpu = gpu(schedule, 4);
                let mut random = Random(width as u64);
                let (x, weight) = (random.floats(5 * width), random.floats(width));
                let rows = [3, 0, 3];
                let padded = width.next_multiple_of(CHUNK);
                let (x_there, weight_there) = (floats_on_gpu(&gpu, &x), floats_on_gpu(&gpu, &weight));
                let rows_there = on_gpu(&gpu, bytemuck::cast_slice(&rows));
                let mut all = Vec::new();
                for (chosen, rows_at) in [(&rows[..], rows_there.at(0)), (&[0, 1, 2, 3, 4], Address::NULL)] {
                    let out = gpu.alloc(chosen.len() * padded * 2).unwrap();
                    let arguments = [
                        Arg::Address(x_there.at(0)),
                        Arg::Address(rows_at),
                        Arg::Address(weight_there.at(0)),
                        Arg::Address(out.at(0)),
                        Arg::I32(width as i32),
                        Arg::I32(padded as i32),
                        Arg::F32(1e-3),
                        Arg::I32(kind.number()),
                    ];
                    launch(&gpu, "wharf_norm", [chosen.len() as u32, 1, 1], 256, &arguments);
                    let found = halves(&gpu, &out);
                    for (index, row) in chosen.iter().enumerate() {
                        let found = &found[index * padded..][..padded];
                        let values: Vec<f32> = (0..width).map(|k| widen(kind, found[place(k)])).collect();
                        let expected = normed(&x[*row as usize * width..][..width], &weight, 1e-3);
                        close(&values, &expected, 4e-3, &format!("row {row} of {width}"));
                        assert!((width..padded).all(|k| found[place(k)] == 0), "padding of {width}");
                    }
                    all.extend(found);
                }
                all
            });
            assert!(bits.iter().all(|other| *other == bits[0]), "no order of threads changes a bit");
        }
    }
}

#[test]
fn a_branch_joins_the_stream_as_it_is_or_normalised() {
    let (width, rows) = (72, 3);
    let mut random = Random(5);
    let (x, branch, weight) =
        (random.floats(rows * width), random.floats(rows * width), random.floats(width));
    for with_norm in [true, false] {
        let gpu = gpu(0, 4);
        let (there, branch_there) = (floats_on_gpu(&gpu, &x), floats_on_gpu(&gpu, &branch));
        let weight_there = floats_on_gpu(&gpu, &weight);
        let arguments = [
            Arg::Address(there.at(0)),
            Arg::Address(branch_there.at(0)),
            Arg::Address(if with_norm { weight_there.at(0) } else { Address::NULL }),
            Arg::I32(width as i32),
            Arg::F32(1e-3),
        ];
        launch(&gpu, "wharf_branch", [rows as u32, 1, 1], 256, &arguments);
        let expected: Vec<f64> = (0..rows)
            .flat_map(|row| {
                let branch = &branch[row * width..][..width];
                let added = match with_norm {
                    true => normed(branch, &weight, 1e-3),
                    false => branch.iter().map(|x| f64::from(*x)).collect(),
                };
                let x = x[row * width..][..width].to_vec();
                x.into_iter().zip(added).map(|(x, added)| f64::from(x) + added)
            })
            .collect();
        close(&floats(&gpu, &there), &expected, 1e-5, "the stream");
    }
}

#[test]
fn logits_are_scaled_and_capped() {
    let logits = Random(1).floats(700).iter().map(|x| 40.0 * x).collect::<Vec<f32>>();
    for (scale, cap) in [(0.5, 0.0), (1.0, 30.0), (0.25, 5.0)] {
        let gpu = gpu(0, 4);
        let there = floats_on_gpu(&gpu, &logits);
        let arguments = [Arg::Address(there.at(0)), Arg::I32(700), Arg::F32(scale), Arg::F32(cap)];
        launch(&gpu, "wharf_logits", [2, 1, 1], 256, &arguments);
        let (scale, cap) = (f64::from(scale), f64::from(cap));
        let expected: Vec<f64> = logits
            .iter()
            .map(|x| f64::from(*x) * scale)
            .map(|x| if cap > 0.0 { cap * (x / cap).tanh() } else { x })
            .collect();
        close(&floats(&gpu, &there), &expected, 1e-5, &format!("scale {scale}, cap {cap}"));
    }
}

struct Rotation {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    stride: usize,
    pairs: usize,
    interleaved: bool,
    norms: bool,
}

impl Rotation {
    fn check(&self, schedule: u64) {
        let Rotation { heads, kv_heads, head_dim, stride, pairs, interleaved, norms } = *self;
        let (rows, blocks, scale) = (4, 3, 0.3_f32);
        let width = (heads + 2 * kv_heads) * head_dim;
        let mut random = Random(head_dim as u64);
        let qkv = random.floats(rows * width);
        let angles = random.floats(rows * pairs);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|angle| (angle.cos(), angle.sin())).unzip();
        let [q_norm, k_norm] = [random.floats(head_dim), random.floats(head_dim)];
        // The last row only fills up the batch.
        let slots = [2 * 16 + 5, 3, 16 + 15, -1];
        let gpu = gpu(schedule, 4);
        let there = floats_on_gpu(&gpu, &qkv);
        let slots_there = on_gpu(&gpu, bytemuck::cast_slice(&slots));
        let [cos_there, sin_there, q_norm_there, k_norm_there] =
            [&cos, &sin, &q_norm, &k_norm].map(|values| floats_on_gpu(&gpu, values));
        let q_out = gpu.alloc(rows * heads * stride * 2).unwrap();
        let pages = gpu.alloc(blocks * kv_heads * 2 * 16 * stride * 2).unwrap();
        let norm_at = |at: Address| Arg::Address(if norms { at } else { Address::NULL });
        let arguments = [
            Arg::Address(there.at(0)),
            Arg::Address(slots_there.at(0)),
            Arg::Address(cos_there.at(0)),
            Arg::Address(sin_there.at(0)),
            norm_at(q_norm_there.at(0)),
            norm_at(k_norm_there.at(0)),
            Arg::Address(q_out.at(0)),
            Arg::Address(pages.at(0)),
            Arg::I32(heads as i32),
            Arg::I32(kv_heads as i32),
            Arg::I32(head_dim as i32),
            Arg::I32(stride as i32),
            Arg::I32(pairs as i32),
            Arg::I32(i32::from(interleaved)),
            Arg::F32(1e-3),
            Arg::F32(scale),
        ];
        launch(&gpu, "wharf_rotate", [rows as u32, 1, 1], 128, &arguments);
        let (q_found, pages_found) = (halves(&gpu, &q_out), halves(&gpu, &pages));
        let mut written = 0;
        for (row, slot) in slots.iter().enumerate() {
            let Ok(slot) = usize::try_from(*slot) else {
                assert!(
                    q_found[row * heads * stride..].iter().all(|bits| *bits == 0),
                    "nothing of a row that fills up"
                );
                continue;
            };
            for head in 0..heads + 2 * kv_heads {
                let from = &qkv[row * width + head * head_dim..][..head_dim];
                let rotated = head < heads + kv_heads;
                let norm = if head < heads { &q_norm } else { &k_norm };
                let mut expected: Vec<f64> = match norms && rotated {
                    true => normed(from, norm, 1e-3),
                    false => from.iter().map(|x| f64::from(*x)).collect(),
                };
                for pair in (0..pairs).filter(|_| rotated) {
                    let (a, b) = if interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + pairs) };
                    let at = row * pairs + pair;
                    let (cos, sin) = (f64::from(cos[at]), f64::from(sin[at]));
                    let (x, y) = (expected[a], expected[b]);
                    (expected[a], expected[b]) = (x * cos - y * sin, x * sin + y * cos);
                }
                let kv = (head - heads.min(head)) % kv_heads;
                let page = (slot / 16 * kv_heads + kv) * 2 * 16 * stride;
                let found: Vec<f32> = (0..stride)
                    .map(|dim| match head {
                        head if head < heads => q_found[(row * heads + head) * stride + dim],
                        _ if rotated => pages_found[page + slot % 16 * stride + dim],
                        _ => pages_found[page + (stride + dim) * 16 + slot % 16],
                    })
                    .map(|bits| widen(Kind::Half, bits))
                    .collect();
                if head < heads {
                    expected.iter_mut().for_each(|value| *value *= f64::from(scale));
                } else {
                    written += head_dim;
                }
                expected.resize(stride, 0.0);
                close(&found, &expected, 1e-3, &format!("head {head} of row {row}"));
            }
        }
        let nonzero = pages_found.iter().filter(|bits| **bits != 0).count();
        assert!(
            nonzero <= written && nonzero * 10 > written * 9,
            "{nonzero} of {written} places are written"
        );
    }
}

#[test]
fn heads_are_rotated_scaled_and_stored() {
    let rotation = |head_dim, stride, pairs, interleaved, norms| Rotation {
        heads: 4,
        kv_heads: 2,
        head_dim,
        stride,
        pairs,
        interleaved,
        norms,
    };
    rotation(16, 32, 8, false, false).check(0);
    rotation(64, 64, 32, true, false).check(0);
    rotation(80, 96, 20, false, true).check(0);
    rotation(128, 128, 32, true, true).check(0);
    rotation(256, 256, 128, false, true).check(SCHEDULES[1]);
    Rotation { heads: 1, kv_heads: 1, ..rotation(48, 64, 24, false, true) }.check(SCHEDULES[2]);
}
