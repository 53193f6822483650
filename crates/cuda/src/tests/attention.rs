//! Attention over pages: groups of heads, windows, splits, prompts and single tokens.

use half::f16;

use super::support::{Random, SCHEDULES, close, gpu, halves, launch, on_gpu, widen};
use crate::HEAD_DIMS;
use crate::driver::Arg;
use crate::format::{CHUNK, Kind, place};

const PAGE: usize = 16;

#[derive(Clone, Copy)]
struct Case {
    head_dim: usize,
    /// Elements that a head takes: those that kernels are for.
    stride: usize,
    group: usize,
    kv_heads: usize,
    /// For each sequence the first position that attends, and how many do.
    sequences: &'static [(usize, usize)],
    window: usize,
    softcap: f32,
    splits: usize,
}

const CASE: Case = Case {
    head_dim: 24,
    stride: 32,
    group: 2,
    kv_heads: 2,
    sequences: &[(0, 5), (37, 1), (90, 20)],
    window: 0,
    softcap: 0.0,
    splits: 1,
};

/// What is in memory, and what attention should make of it.
struct Memory {
    q: Vec<u16>,
    pages: Vec<u16>,
    tiles: Vec<i32>,
    table: Vec<i32>,
    expected: Vec<f64>,
    rows: usize,
    most_pages: usize,
}

fn half(value: f32) -> u16 {
    f16::from_f32(value).to_bits()
}

impl Case {
    fn memory(&self) -> Memory {
        let Case { head_dim, stride, group, kv_heads, window, .. } = *self;
        let mut random = Random(head_dim as u64 + group as u64);
        let heads = group * kv_heads;
        let positions = 16 / group.min(16);
        let pages_of = |(first, count): (usize, usize)| (first + count).div_ceil(PAGE);
        let blocks: usize = self.sequences.iter().map(|sequence| pages_of(*sequence)).sum();
        let rows = self.sequences.iter().map(|(_, count)| count).sum();
        let mut memory = Memory {
            q: Vec::new(),
            // Behind what is written there may be anything but what is no number.
            pages: vec![half(1000.0); blocks * kv_heads * 2 * PAGE * stride],
            tiles: Vec::new(),
            table: Vec::new(),
            expected: Vec::new(),
            rows,
            most_pages: self.sequences.iter().map(|sequence| pages_of(*sequence)).max().unwrap(),
        };
        let mut row = 0;
        for (first, count) in self.sequences {
            let entry = memory.table.len();
            // Blocks from the last on, so that none is where it would be without the table.
            memory
                .table
                .extend((0..pages_of((*first, *count))).map(|page| (blocks - 1 - entry - page) as i32));
            let len = first + count;
            let (keys, values): (Vec<u16>, Vec<u16>) = (0..len * kv_heads * head_dim)
                .map(|_| (half(2.0 * random.float()), half(random.float())))
                .unzip();
            for position in 0..len {
                let block = memory.table[entry + position / PAGE] as usize;
                for kv in 0..kv_heads {
                    let page = (block * kv_heads + kv) * 2 * PAGE * stride;
                    for dim in 0..stride {
                        let at = (position * kv_heads + kv) * head_dim + dim;
                        let (key, value) = if dim < head_dim { (keys[at], values[at]) } else { (0, 0) };
                        memory.pages[page + position % PAGE * stride + dim] = key;
                        memory.pages[page + (stride + dim) * PAGE + position % PAGE] = value;
                    }
                }
            }
            for offset in (0..*count).step_by(positions) {
                let tile = [row + offset, positions.min(count - offset), first + offset, entry];
                memory.tiles.extend(tile.map(|value| value as i32));
            }
            for position in *first..len {
                let seen = if window > 0 { (position + 1).saturating_sub(window) } else { 0 }..=position;
                for head in 0..heads {
                    let q: Vec<u16> =
                        (0..head_dim).map(|_| half(random.float() / (head_dim as f32).sqrt())).collect();
                    let of = |bits: &[u16], position: usize, dim: usize| {
                        f64::from(widen(
                            Kind::Half,
                            bits[(position * kv_heads + head / group) * head_dim + dim],
                        ))
                    };
                    let scores: Vec<f64> = seen
                        .clone()
                        .map(|p| {
                            (0..head_dim).map(|d| f64::from(widen(Kind::Half, q[d])) * of(&keys, p, d)).sum()
                        })
                        .map(|score: f64| match f64::from(self.softcap) {
                            0.0 => score,
                            cap => cap * (score / cap).tanh(),
                        })
                        .collect();
                    let total: f64 = scores.iter().map(|score| score.exp()).sum();
                    for dim in 0..head_dim {
                        let weighted =
                            seen.clone().zip(&scores).map(|(p, score)| score.exp() * of(&values, p, dim));
                        memory.expected.push(weighted.sum::<f64>() / total);
                    }
                    memory.q.extend(q);
                    memory.q.resize(memory.q.len() + stride - head_dim, 0);
                }
            }
            row += count;
        }
        // A tile that only fills up.
        memory.tiles.extend([0; 4]);
        memory
    }

    fn check(&self, schedule: u64) -> Vec<u16> {
        let Case { head_dim, stride, group, kv_heads, window, softcap, splits, .. } = *self;
        let memory = self.memory();
        let gpu = gpu(schedule, 4);
        let heads = kv_heads * group.div_ceil(16);
        let width = (kv_heads * group * head_dim).next_multiple_of(CHUNK);
        let tiles = memory.tiles.len() / 4;
        let [q, pages] = [&memory.q, &memory.pages].map(|bits| on_gpu(&gpu, bytemuck::cast_slice(bits)));
        let [tile_rows, table] =
            [&memory.tiles, &memory.table].map(|ints| on_gpu(&gpu, bytemuck::cast_slice(ints)));
        let out = gpu.alloc(memory.rows * width * 2).unwrap();
        let partials = gpu.alloc(tiles * heads * splits * 16 * (stride + 2) * 4).unwrap();
        let kind = Kind::Half;
        let (tile_rows, partials) = (Arg::Address(tile_rows.at(0)), Arg::Address(partials.at(0)));
        let blocks = [tiles as u32, heads as u32, splits as u32];
        let arguments = [
            Arg::Address(q.at(0)),
            Arg::Address(pages.at(0)),
            tile_rows,
            Arg::Address(table.at(0)),
            Arg::Address(out.at(0)),
            partials,
            Arg::I32(group as i32),
            Arg::I32(kv_heads as i32),
            Arg::I32(head_dim as i32),
            Arg::I32(window as i32),
            Arg::F32(softcap),
            Arg::I32(memory.most_pages.div_ceil(splits) as i32),
            Arg::I32(width as i32),
            Arg::I32(kind.number()),
        ];
        launch(&gpu, &format!("wharf_attend_{stride}"), blocks, 128, &arguments);
        if splits > 1 {
            let arguments = [
                partials,
                tile_rows,
                Arg::Address(out.at(0)),
                Arg::I32(group as i32),
                Arg::I32(splits as i32),
                Arg::I32(head_dim as i32),
                Arg::I32(stride as i32),
                Arg::I32(width as i32),
                Arg::I32(kind.number()),
            ];
            launch(&gpu, "wharf_merge", [tiles as u32, heads as u32, 1], 128, &arguments);
        }
        let found = halves(&gpu, &out);
        let row = kv_heads * group * head_dim;
        let values: Vec<f32> =
            (0..memory.rows * row).map(|at| widen(kind, found[at / row * width + place(at % row)])).collect();
        let what = format!("heads of {head_dim} in groups of {group}, window {window}, {splits} splits");
        close(&values, &memory.expected, 3e-3, &what);
        found
    }
}

#[test]
fn heads_of_every_size_attend() {
    for stride in HEAD_DIMS {
        for head_dim in [stride, stride - 16] {
            Case { head_dim, stride, ..CASE }.check(0);
        }
    }
}

#[test]
fn any_number_of_heads_shares_a_kv_head() {
    for group in [1, 3, 4, 7, 16, 20] {
        Case { group, kv_heads: 1, ..CASE }.check(0);
    }
}

#[test]
fn splits_meet() {
    for splits in [2, 3, 4] {
        Case { splits, sequences: &[(200, 1), (3, 1), (120, 9)], ..CASE }.check(0);
    }
}

#[test]
fn windows_and_caps_hold() {
    for (window, softcap, splits) in [(1, 0.0, 1), (10, 0.0, 1), (40, 0.0, 3), (0, 0.5, 1), (33, 1.5, 2)] {
        Case { window, softcap, splits, ..CASE }.check(0);
    }
}

#[test]
fn no_order_of_threads_changes_a_bit() {
    let case = Case { splits: 2, ..CASE };
    let [first, rest @ ..] = SCHEDULES.map(|schedule| case.check(schedule));
    assert!(rest.iter().all(|bits| *bits == first));
}
