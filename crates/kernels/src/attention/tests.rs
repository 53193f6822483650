//! Against double precision; the same bits whatever instruction set, chunking or company of a query.

use half::f16;
use proptest::prelude::*;

use super::*;
use crate::matmul::tests::Noise;

mod int8;

/// What an arena holds where nothing was written.
trait Garbage: KvElement {
    const GARBAGE: Self;
}

impl Garbage for f16 {
    const GARBAGE: f16 = f16::NAN;
}

impl Garbage for f32 {
    const GARBAGE: f32 = f32::NAN;
}

impl Garbage for i8 {
    const GARBAGE: i8 = i8::MIN;
}

/// Keys and values of one sequence in an arena whose other contents are garbage, with NaN for scales.
struct Cache<T> {
    data: Vec<T>,
    scales: Vec<f32>,
    table: Vec<u32>,
    head_dim: usize,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl<T: Garbage> Cache<T> {
    fn new(noise: &mut Noise, positions: usize, head_dim: usize) -> Cache<T> {
        let pages = positions.div_ceil(PAGE_TOKENS);
        // Physical pages in reverse, one spare before each.
        let table: Vec<u32> = (0..pages as u32).rev().map(|page| 2 * page + 1).collect();
        let page = 2 * head_dim * PAGE_TOKENS;
        let mut cache = Cache {
            data: vec![T::GARBAGE; 2 * pages * page],
            scales: vec![f32::NAN; 2 * pages * T::page_scales(head_dim)],
            table,
            head_dim,
            k: noise.floats(positions * head_dim),
            v: noise.floats(positions * head_dim),
        };
        for position in 0..positions {
            let at = cache.table[position / PAGE_TOKENS] as usize;
            let (keys, values) = cache.data[at * page..][..page].split_at_mut(page / 2);
            let scales = &mut cache.scales[at * T::page_scales(head_dim)..][..T::page_scales(head_dim)];
            let row = position * head_dim..(position + 1) * head_dim;
            let (slot, written) = (position % PAGE_TOKENS, PageMut { keys, values, scales });
            write_kv(Isa::detect(), written, slot, &cache.k[row.clone()], &cache.v[row]);
        }
        cache
    }

    fn pages(&self) -> KvPages<'_, T> {
        KvPages {
            data: &self.data,
            table: &self.table,
            page_stride: 2 * self.head_dim * PAGE_TOKENS,
            k_offset: 0,
            v_offset: self.head_dim * PAGE_TOKENS,
            head_dim: self.head_dim,
            scales: T::SCALED.then_some(KvScales {
                data: &self.scales,
                stride: T::page_scales(self.head_dim),
                offset: 0,
            }),
        }
    }

    fn attend(&self, isa: Isa, queries: &Queries<'_>) -> Vec<f32> {
        let mut out = vec![f32::MAX; queries.q.len()];
        attend(isa, &self.pages(), queries, &mut Scratch::default(), &mut out);
        out
    }

    /// The definition, in double precision.
    fn exact(&self, queries: &Queries<'_>) -> Vec<f64> {
        let hd = self.head_dim;
        let mut out = Vec::new();
        for (row, q) in queries.q.chunks_exact(hd).enumerate() {
            let position = queries.first + row / queries.group;
            let seen = (position + 1).saturating_sub(queries.window)..position + 1;
            let scores: Vec<f64> = seen
                .clone()
                .map(|j| {
                    let k = &self.k[j * hd..][..hd];
                    let score: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                    queries.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                })
                .collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..hd).map(|d| {
                let sum: f64 =
                    seen.clone().zip(&weights).map(|(j, w)| w * f64::from(self.v[j * hd + d])).sum();
                sum / total
            }));
        }
        out
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn scaled(noise: &mut Noise, rows: usize, head_dim: usize) -> Vec<f32> {
    noise.floats(rows * head_dim).iter().map(|q| q * 3.0 / (head_dim as f32).sqrt()).collect()
}

#[test]
fn equals_softmax_of_scores_times_values() {
    let mut noise = Noise(11);
    for head_dim in [16, 24, 32, 64, 80, 96, 128, 256, 7] {
        for (first, count, window, softcap) in [
            (0, 1, usize::MAX, None),
            (0, 40, usize::MAX, None),
            (300, 5, usize::MAX, Some(2.0)),
            (500, 30, 100, None),
            (515, 3, 1, None),
            (255, 3, 256, Some(30.0)),
        ] {
            let cache: Cache<f32> = Cache::new(&mut noise, first + count, head_dim);
            let q = scaled(&mut noise, 2 * count, head_dim);
            let queries = Queries { q: &q, group: 2, first, window, softcap };
            for (got, want) in cache.attend(Isa::detect(), &queries).iter().zip(cache.exact(&queries)) {
                let error = (f64::from(*got) - want).abs();
                assert!(error < 3e-6, "head {head_dim} from {first}: {got}, not {want}");
            }
        }
    }
}

#[test]
fn half_precision_pages_round_once() {
    let mut noise = Noise(12);
    let cache: Cache<f16> = Cache::new(&mut noise, 600, 64);
    let q = scaled(&mut noise, 3, 64);
    let queries = Queries { q: &q, group: 3, first: 599, window: usize::MAX, softcap: None };
    for (got, want) in cache.attend(Isa::detect(), &queries).iter().zip(cache.exact(&queries)) {
        assert!((f64::from(*got) - want).abs() < 2e-3, "{got}, not {want}");
    }
}

/// All ways to compute the same queries.
fn agree<T: Garbage>(cache: &Cache<T>, queries: Queries<'_>) -> Result<(), TestCaseError> {
    let hd = cache.head_dim;
    let want = cache.attend(Isa::SCALAR, &queries);
    prop_assert!(want.iter().all(|x| x.is_finite()), "what nobody sees has leaked");
    let want = bits(&want);
    for isa in Isa::available() {
        prop_assert_eq!(&bits(&cache.attend(isa, &queries)), &want, "{}", isa);

        // Every chunk apart, the last first; and only every second, the rest by who merges.
        let chunks = queries.chunks(hd);
        let len = partial_len(queries.rows(hd), hd);
        let mut partials = vec![f32::NAN; chunks.len() * len];
        for (partial, chunk) in partials.chunks_exact_mut(len).zip(chunks.clone()).rev() {
            attend_chunk(isa, &cache.pages(), &queries, chunk, &mut Scratch::default(), partial);
        }
        let part = |chunk: usize| &partials[(chunk - chunks.start) * len..][..len];
        let every = |chunk: usize| Some(part(chunk));
        let second = |chunk: usize| (chunk % 2 == 1).then(|| part(chunk));
        let ways: [&dyn Fn(usize) -> _; 2] = [&every, &second];
        for done in ways {
            let mut out = vec![f32::NAN; queries.q.len()];
            attend_rest(isa, &cache.pages(), &queries, done, &mut Scratch::default(), &mut out);
            prop_assert_eq!(&bits(&out), &want, "{} in chunks", isa);
        }

        let width = queries.group * hd;
        for tile in [1, 2, 5] {
            let mut alone = Vec::new();
            for (i, q) in queries.q.chunks(tile * width).enumerate() {
                alone.extend(cache.attend(isa, &Queries { q, first: queries.first + i * tile, ..queries }));
            }
            prop_assert_eq!(&bits(&alone), &want, "{} by {} positions", isa, tile);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(48), ..ProptestConfig::default() })]

    #[test]
    fn bits_do_not_depend_on_how_the_work_is_cut(
        seed: u64,
        first in 0..600usize,
        count in 1..20usize,
        group in 1..6usize,
        head_dim in prop_oneof![Just(16usize), Just(24), Just(32), Just(48), Just(64), Just(80), Just(128)],
        window in prop_oneof![Just(usize::MAX), 1..400usize],
        softcap in prop_oneof![Just(None), Just(Some(20.0f32))],
        kind in 0..3,
    ) {
        let mut noise = Noise(seed);
        let q = scaled(&mut noise, count * group, head_dim);
        let queries = Queries { q: &q, group, first, window, softcap };
        match kind {
            0 => agree(&Cache::<f32>::new(&mut noise, first + count, head_dim), queries)?,
            1 => agree(&Cache::<f16>::new(&mut noise, first + count, head_dim), queries)?,
            _ => agree(&Cache::<i8>::new(&mut noise, first + count, head_dim), queries)?,
        }
    }
}

#[test]
fn tiles_of_queries_may_end_with_a_chunk_of_positions() {
    let mut noise = Noise(15);
    for (first, count, window) in
        [(CHUNK - 16, 32, usize::MAX), (CHUNK - 1, 24, usize::MAX), (2 * CHUNK - 9, 30, 70)]
    {
        let q = scaled(&mut noise, 3 * count, 64);
        let queries = Queries { q: &q, group: 3, first, window, softcap: None };
        assert!(queries.rows(64) >= WIDEN_ROWS, "chunks are widened");
        agree(&Cache::<f16>::new(&mut noise, first + count, 64), queries).unwrap();
        agree(&Cache::<i8>::new(&mut noise, first + count, 64), queries).unwrap();
        let q = scaled(&mut noise, 3 * count, 80);
        agree(&Cache::<i8>::new(&mut noise, first + count, 80), Queries { q: &q, ..queries }).unwrap();
    }
}

/// Rows of four sequences, of unequal numbers, that see the whole of two chunks: their results over these are computed together
/// and are what each sequence computes alone.
fn chunks_may_be_shared<T: Garbage>(head_dim: usize, window: usize, softcap: Option<f32>) {
    let mut noise = Noise(16);
    let cache: Cache<T> = Cache::new(&mut noise, 900, head_dim);
    let sequences: Vec<(usize, Vec<f32>)> = [(515, 1), (601, 4), (600, 2), (899, 1)]
        .map(|(first, count)| (first, scaled(&mut noise, 3 * count, head_dim)))
        .into();
    // A window of 700 has left some of the first chunk, from position 700 on.
    let shared = if window == usize::MAX { 0..2 } else { 1..2 };
    let together: Vec<f32> = sequences.iter().flat_map(|(_, q)| q).copied().collect();
    let row_len = partial_len(1, head_dim);
    for isa in Isa::available() {
        let parts: Vec<Vec<f32>> = shared
            .clone()
            .map(|chunk| {
                let queries = Queries::of_chunk(&together, head_dim, chunk, softcap);
                let mut part = vec![f32::NAN; partial_len(queries.rows(head_dim), head_dim)];
                attend_chunk(isa, &cache.pages(), &queries, chunk, &mut Scratch::default(), &mut part);
                part
            })
            .collect();
        let mut row = 0;
        for (first, q) in &sequences {
            let queries = Queries { q, group: 3, first: *first, window, softcap };
            let rows = queries.rows(head_dim);
            let done = |chunk: usize| {
                let part = parts.get(chunk.checked_sub(shared.start)?)?;
                Some(&part[row * row_len..(row + rows) * row_len])
            };
            let mut out = vec![f32::NAN; q.len()];
            attend_rest(isa, &cache.pages(), &queries, &done, &mut Scratch::default(), &mut out);
            assert_eq!(bits(&out), bits(&cache.attend(isa, &queries)), "{isa} from {first}");
            row += rows;
        }
    }
}

#[test]
fn rows_of_several_sequences_may_share_a_chunk() {
    for (window, softcap) in [(usize::MAX, None), (usize::MAX, Some(20.0)), (700, Some(20.0))] {
        chunks_may_be_shared::<f16>(64, window, softcap);
        chunks_may_be_shared::<i8>(80, window, softcap);
        chunks_may_be_shared::<f32>(32, window, softcap);
    }
}

#[test]
fn pages_that_a_window_has_left_may_hold_anything() {
    let mut noise = Noise(13);
    let mut cache: Cache<f32> = Cache::new(&mut noise, 700, 32);
    let q = scaled(&mut noise, 9, 32);
    let queries = Queries { q: &q, group: 1, first: 691, window: 50, softcap: None };
    let want = cache.attend(Isa::detect(), &queries);
    let page = 2 * 32 * PAGE_TOKENS;
    for gone in 0..(692 - 50) / PAGE_TOKENS {
        let at = cache.table[gone] as usize * page;
        cache.data[at..at + page].fill(f32::NAN);
    }
    for isa in Isa::available() {
        assert_eq!(bits(&cache.attend(isa, &queries)), bits(&want));
        assert!(want.iter().all(|x| x.is_finite()));
    }
}

#[test]
fn scores_far_apart_leave_the_largest() {
    let mut noise = Noise(14);
    let mut cache: Cache<f32> = Cache::new(&mut noise, 520, 16);
    // The key of position 100, in the first chunk of three, is a thousand times the query.
    let at = cache.table[100 / PAGE_TOKENS] as usize * 2 * 16 * PAGE_TOKENS;
    let q = vec![1.0; 16];
    for d in 0..16 {
        cache.data[at + d * PAGE_TOKENS + 100 % PAGE_TOKENS] = 1000.0;
    }
    let queries = Queries { q: &q, group: 1, first: 519, window: usize::MAX, softcap: None };
    for isa in Isa::available() {
        assert_eq!(cache.attend(isa, &queries), cache.v[100 * 16..101 * 16]);
    }
}
