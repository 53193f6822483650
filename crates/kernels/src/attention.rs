//! Decides how attention reads paged keys and values, and in which order it adds.
//!
//! `out[i] = Σ_j softmax_j(q_i · k_j) v_j` over the positions `j` that query `i` sees. Positions are cut
//! into chunks of [`CHUNK`] at fixed absolute places. Within a chunk a score is a chain of fused
//! multiply-adds over ascending head elements; weights are relative to the chunk's largest score and summed
//! in sixteen lanes (position mod 16) and one tree; values are a chain over ascending positions. Chunks are
//! merged in ascending order. So a query's result depends neither on the queries processed with it, nor on
//! who computes which chunk.
//!
//! Pages hold [`PAGE_TOKENS`] positions of one layer and KV head: keys transposed, `[head_dim][16]`, so
//! that sixteen scores need no horizontal sum; values as `[16][head_dim]`. A query never reads values of
//! positions that it does not see, and drops their scores: stale pages may hold anything.
//!
//! Where keys and values are signed bytes, both chains run over the integers. A score is multiplied by its key's scale when
//! its chain is complete, a weight by its value's scale when the weights have been summed.

mod kv;
mod partial;

pub use kv::{KvElement, KvPages, KvScales, PageMut, write_kv};
pub use partial::{merge, partial_len};

use partial::{Partial, absorb, finish};

use std::ops::Range;

use crate::{
    Isa,
    isa::Kernel,
    math::exp,
    ops::cap,
    simd::{LANES, Simd, load_part, store_part},
};

/// Positions of a page.
pub const PAGE_TOKENS: usize = LANES;

/// Positions whose results are computed apart and then merged: `CHUNK · c .. CHUNK · (c + 1)`.
pub const CHUNK: usize = 256;

/// Pages of a chunk.
const PAGES: usize = CHUNK / PAGE_TOKENS;

/// Consecutive query positions of one sequence, for the query heads that share one KV head.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// `(positions, group, head_dim)`, scaled by `1/√head_dim` or whatever the model says.
    pub q: &'a [f32],
    /// Query heads that share the KV head.
    pub group: usize,
    /// Absolute position of the first query; a query sees positions up to and including its own.
    pub first: usize,
    /// How many positions back a query sees, its own included; `usize::MAX` for all.
    pub window: usize,
    /// Scores become `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
}

impl Queries<'_> {
    /// Rows of `q`: positions times group.
    pub fn rows(&self, head_dim: usize) -> usize {
        self.q.len() / head_dim
    }

    /// The chunks that any of the queries sees: `first..end`.
    pub fn chunks(&self, head_dim: usize) -> Range<usize> {
        match self.rows(head_dim) / self.group {
            0 => 0..0,
            positions => {
                let last = self.first + positions - 1;
                (self.first + 1).saturating_sub(self.window) / CHUNK..last / CHUNK + 1
            }
        }
    }

    /// Pages of chunk `chunk`, counted from its start, that any of the queries sees.
    fn pages(&self, head_dim: usize, chunk: usize) -> Range<usize> {
        let (first, last) = (self.seen(0, chunk), self.seen(self.rows(head_dim) - 1, chunk));
        first.start / PAGE_TOKENS..last.end.div_ceil(PAGE_TOKENS)
    }

    /// Positions that row `row` sees in chunk `chunk`, counted from the chunk's start.
    fn seen(&self, row: usize, chunk: usize) -> Range<usize> {
        let position = self.first + row / self.group;
        let base = chunk * CHUNK;
        let start = (position + 1).saturating_sub(self.window).clamp(base, base + CHUNK);
        let end = (position + 1).clamp(start, base + CHUNK);
        start - base..end - base
    }
}

/// Rows that share each load of a key or value: with six, twelve sums fill the registers of AVX2.
const TILE: usize = 6;

/// From how many rows on the keys and values of a chunk are first widened to single precision: then several tiles share the
/// conversion. It is exact, so it changes no result.
const WIDEN_ROWS: usize = 2 * TILE;

/// Pages of a chunk that has been widened: one after the other.
const IN_ORDER: [u32; PAGES] = {
    let mut pages = [0; PAGES];
    let mut page = 0;
    while page < pages.len() {
        pages[page] = page as u32;
        page += 1;
    }
    pages
};

/// Scores, then weights, of a tile over one chunk.
type Scores = Vec<[f32; CHUNK]>;

/// Buffers of one thread.
#[derive(Default)]
pub struct Scratch {
    scores: Scores,
    total: Vec<f32>,
    part: Vec<f32>,
    wide: Vec<f32>,
}

/// Attention of all queries over everything they see; `out: (positions, group, head_dim)`.
///
/// # Panics
/// When lengths disagree or the page table is too short for the last query.
pub fn attend<T: KvElement>(
    isa: Isa,
    kv: &KvPages<'_, T>,
    queries: &Queries<'_>,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    assert_eq!(kv.scales.is_some(), T::PAGE_SCALES > 0, "scales for the types that have some");
    let rows = queries.rows(kv.head_dim);
    let len = partial_len(rows, kv.head_dim);
    let Scratch { scores, total, part, wide } = scratch;
    total.clear();
    total.resize(len, 0.0);
    part.resize(len, 0.0);
    Partial::new(total, kv.head_dim).clear();
    for chunk in queries.chunks(kv.head_dim) {
        let partial = &mut part[..];
        if T::NARROW && rows >= WIDEN_ROWS {
            let pages = kv::widen(isa, kv, chunk * PAGES, queries.pages(kv.head_dim, chunk), wide, &IN_ORDER);
            let wide = Some(&pages.data[pages.v_offset..]);
            isa.run(Attend { kv, pages: &pages, first_page: 0, wide, queries, chunk, scores, partial });
        } else {
            let first_page = chunk * PAGES;
            isa.run(Attend { kv, pages: kv, first_page, wide: None, queries, chunk, scores, partial });
        }
        absorb(isa, total, part, kv.head_dim);
    }
    finish(isa, total, kv.head_dim, out);
}

/// Attention of all queries over one chunk of positions, for [`merge`] to combine with the other chunks of
/// [`Queries::chunks`]. `partial` has [`partial_len`] elements.
///
/// # Panics
/// As [`attend`].
pub fn attend_chunk<T: KvElement>(
    isa: Isa,
    kv: &KvPages<'_, T>,
    queries: &Queries<'_>,
    chunk: usize,
    scratch: &mut Scratch,
    partial: &mut [f32],
) {
    assert_eq!(kv.scales.is_some(), T::PAGE_SCALES > 0, "scales for the types that have some");
    let scores = &mut scratch.scores;
    let first_page = chunk * PAGES;
    isa.run(Attend { kv, pages: kv, first_page, wide: None, queries, chunk, scores, partial });
}

struct Attend<'a, 'q, T, P> {
    /// What is stored; the scales are taken from here.
    kv: &'a KvPages<'a, T>,
    /// The keys and values to compute with: the same, or the chunk widened.
    pages: &'a KvPages<'a, P>,
    /// Page of `pages` with which the chunk begins.
    first_page: usize,
    /// All values of the chunk, `[256][head_dim]`, if it has been widened.
    wide: Option<&'a [f32]>,
    queries: &'a Queries<'q>,
    chunk: usize,
    scores: &'a mut Scores,
    partial: &'a mut [f32],
}

impl<T: KvElement, P: KvElement> Kernel for Attend<'_, '_, T, P> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Attend { kv, pages, first_page, wide, queries, chunk, scores, partial } = self;
        let hd = kv.head_dim;
        let rows = queries.rows(hd);
        assert_eq!(queries.q.len(), rows * hd, "queries are whole heads");
        assert_eq!(partial.len(), partial_len(rows, hd), "length of the partial result");
        scores.resize(TILE, [0.0; CHUNK]);
        let mut partial = Partial::new(partial, hd);
        partial.clear();
        let mut row = 0;
        while row < rows {
            let partial = &mut partial;
            let mut tile = Tile { kv, pages, first_page, wide, queries, chunk, row, scores, partial };
            row += match rows - row {
                1 => tile.compute::<S, 1>(s),
                2 => tile.compute::<S, 2>(s),
                3 => tile.compute::<S, 3>(s),
                4 | 5 => tile.compute::<S, 4>(s),
                _ => tile.compute::<S, TILE>(s),
            };
        }
    }
}

/// Some consecutive rows over one chunk.
struct Tile<'a, 'q, 'p, T, P> {
    kv: &'a KvPages<'a, T>,
    pages: &'a KvPages<'a, P>,
    first_page: usize,
    wide: Option<&'a [f32]>,
    queries: &'a Queries<'q>,
    chunk: usize,
    row: usize,
    scores: &'a mut Scores,
    partial: &'a mut Partial<'p>,
}

impl<T: KvElement, P: KvElement> Tile<'_, '_, '_, T, P> {
    #[inline(always)]
    fn compute<S: Simd, const R: usize>(&mut self, s: S) -> usize {
        let seen: [Range<usize>; R] = std::array::from_fn(|r| self.queries.seen(self.row + r, self.chunk));
        let (mut first, mut last) = (CHUNK, 0);
        let (mut common_first, mut common_last) = (0, CHUNK);
        for seen in &seen {
            if !seen.is_empty() {
                (first, last) = (first.min(seen.start), last.max(seen.end));
            }
            (common_first, common_last) = (common_first.max(seen.start), common_last.min(seen.end));
        }
        if first >= last {
            return R;
        }
        let pages = first / PAGE_TOKENS..last.div_ceil(PAGE_TOKENS);
        self.score::<S, R>(s, pages);
        for (r, seen) in seen.iter().enumerate() {
            if !seen.is_empty() {
                self.weigh(s, r, seen.clone());
            }
        }
        if common_first < common_last {
            for (r, seen) in seen.iter().enumerate() {
                self.values::<S, 1>(s, r, seen.start..common_first);
            }
            self.values::<S, R>(s, 0, common_first..common_last);
            for (r, seen) in seen.iter().enumerate() {
                self.values::<S, 1>(s, r, common_last..seen.end);
            }
        } else {
            for (r, seen) in seen.iter().enumerate() {
                self.values::<S, 1>(s, r, seen.clone());
            }
        }
        R
    }

    /// Scores of every position of some pages, seen or not. As many pages at once as there are registers for: a sum alone waits
    /// for itself at every element of the head.
    #[inline(always)]
    fn score<S: Simd, const R: usize>(&mut self, s: S, mut pages: Range<usize>) {
        if 4 * R <= S::SUMS {
            while pages.len() >= 4 {
                self.score_pages::<S, R, 4>(s, pages.start);
                pages.start += 4;
            }
        }
        if 2 * R <= S::SUMS {
            while pages.len() >= 2 {
                self.score_pages::<S, R, 2>(s, pages.start);
                pages.start += 2;
            }
        }
        for page in pages {
            self.score_pages::<S, R, 1>(s, page);
        }
    }

    /// Scores of `N` pages from `first` on.
    #[inline(always)]
    fn score_pages<S: Simd, const R: usize, const N: usize>(&mut self, s: S, first: usize) {
        let hd = self.kv.head_dim;
        let q: [&[f32]; R] = std::array::from_fn(|r| &self.queries.q[(self.row + r) * hd..][..hd]);
        let keys: [&[[P; PAGE_TOKENS]]; N] =
            std::array::from_fn(|n| &self.pages.keys(self.first_page + first + n).as_chunks().0[..hd]);
        let mut sums = [[s.splat(0.0); N]; R];
        for d in 0..hd {
            let mut k = [s.splat(0.0); N];
            for n in 0..N {
                k[n] = P::load(s, &keys[n][d]);
            }
            for r in 0..R {
                let q = s.splat(q[r][d]);
                for n in 0..N {
                    sums[r][n] = s.fma(q, k[n], sums[r][n]);
                }
            }
        }
        for n in 0..N {
            let page = first + n;
            let scales = self.kv.key_scales(self.chunk * PAGES + page);
            for r in 0..R {
                let sum = match scales {
                    Some(scales) => s.mul(sums[r][n], s.load(scales)),
                    None => sums[r][n],
                };
                let sum = match self.queries.softcap {
                    Some(most) => cap(s, sum, most),
                    None => sum,
                };
                store_part(s, &mut self.scores[r][page * PAGE_TOKENS..][..PAGE_TOKENS], sum);
            }
        }
    }

    /// Turns the scores of one row into weights of what is stored; those of positions that it does not see mean nothing.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, s: S, r: usize, seen: Range<usize>) {
        let pages = seen.start / PAGE_TOKENS * PAGE_TOKENS..seen.end.next_multiple_of(PAGE_TOKENS);
        let scores = &mut self.scores[r];
        scores[pages.start..seen.start].fill(f32::NEG_INFINITY);
        scores[seen.end..pages.end].fill(f32::NEG_INFINITY);
        let first_page = self.chunk * PAGES + pages.start / PAGE_TOKENS;
        let scores = scores[pages].as_chunks_mut::<LANES>().0;
        let mut most = s.splat(f32::NEG_INFINITY);
        for scores in scores.iter() {
            most = s.max(s.load(scores), most);
        }
        let most = s.largest(most);
        let mut total = s.splat(0.0);
        for (page, scores) in (first_page..).zip(scores) {
            let weight = exp(s, s.sub(s.load(scores), s.splat(most)));
            total = s.add(total, weight);
            let weight = match self.kv.value_scales(page) {
                Some(scales) => s.mul(weight, s.load(scales)),
                None => weight,
            };
            s.store(scores, weight);
        }
        self.partial.most[self.row + r] = most;
        self.partial.weight[self.row + r] = s.sum(total);
    }

    /// Adds the weighted values of some positions, ascending, to `R` rows from tile row `first` on.
    #[inline(always)]
    fn values<S: Simd, const R: usize>(&mut self, s: S, first: usize, positions: Range<usize>) {
        if positions.is_empty() {
            return;
        }
        let hd = self.kv.head_dim;
        let mut done = 0;
        if 4 * R <= S::SUMS {
            while hd - done >= 4 * LANES {
                self.values_of::<S, R, 4>(s, first, positions.clone(), done);
                done += 4 * LANES;
            }
        }
        if 2 * R <= S::SUMS {
            while hd - done >= 2 * LANES {
                self.values_of::<S, R, 2>(s, first, positions.clone(), done);
                done += 2 * LANES;
            }
        }
        for at in (done..hd).step_by(LANES) {
            let width = LANES.min(hd - at);
            let row = |r: usize| (self.row + first + r) * hd + at;
            let mut sums = [s.splat(0.0); R];
            for r in 0..R {
                sums[r] = load_part(s, &self.partial.values[row(r)..][..width], 0.0);
            }
            match self.wide {
                Some(values) if width == LANES => {
                    let weights = std::array::from_fn(|r| &self.scores[first + r][positions.clone()]);
                    s.weighted::<R>(&mut sums, weights, &values[positions.start * hd + at..], hd);
                }
                _ => self.add_values(s, first, positions.clone(), at..at + width, &mut sums),
            }
            for r in 0..R {
                store_part(s, &mut self.partial.values[row(r)..][..width], sums[r]);
            }
        }
    }

    /// As [`Tile::values`], for `N` vectors of elements of the head from `at` on: a weight is read once for all of them.
    #[inline(always)]
    fn values_of<S: Simd, const R: usize, const N: usize>(
        &mut self,
        s: S,
        first: usize,
        positions: Range<usize>,
        at: usize,
    ) {
        let hd = self.kv.head_dim;
        let row = |r: usize| (self.row + first + r) * hd + at;
        let mut sums = [[s.splat(0.0); N]; R];
        for r in 0..R {
            for (n, from) in self.partial.values[row(r)..].as_chunks().0[..N].iter().enumerate() {
                sums[r][n] = s.load(from);
            }
        }
        let mut position = positions.start;
        while position < positions.end {
            let page = position / PAGE_TOKENS;
            let end = positions.end.min((page + 1) * PAGE_TOKENS);
            let values = &self.pages.values(self.first_page + page)[position % PAGE_TOKENS * hd..];
            let weights: [&[f32]; R] = std::array::from_fn(|r| &self.scores[first + r][position..end]);
            for (i, values) in values.chunks_exact(hd).take(end - position).enumerate() {
                let values: &[[P; LANES]] = &values[at..].as_chunks().0[..N];
                let mut v = [s.splat(0.0); N];
                for n in 0..N {
                    v[n] = P::load(s, &values[n]);
                }
                for r in 0..R {
                    let weight = s.splat(weights[r][i]);
                    for n in 0..N {
                        sums[r][n] = s.fma(weight, v[n], sums[r][n]);
                    }
                }
            }
            position = end;
        }
        for r in 0..R {
            for (n, to) in self.partial.values[row(r)..].as_chunks_mut().0[..N].iter_mut().enumerate() {
                s.store(to, sums[r][n]);
            }
        }
    }

    /// As [`Tile::values`], for some elements of the head, page by page.
    #[inline(always)]
    fn add_values<S: Simd, const R: usize>(
        &self,
        s: S,
        first: usize,
        positions: Range<usize>,
        elements: Range<usize>,
        sums: &mut [S::F; R],
    ) {
        let hd = self.kv.head_dim;
        let mut position = positions.start;
        while position < positions.end {
            let page = position / PAGE_TOKENS;
            let end = positions.end.min((page + 1) * PAGE_TOKENS);
            let values = self.pages.values(self.first_page + page);
            for position in position..end {
                let v = kv::load(s, &values[position % PAGE_TOKENS * hd..][elements.clone()]);
                for r in 0..R {
                    sums[r] = s.fma(s.splat(self.scores[first + r][position]), v, sums[r]);
                }
            }
            position = end;
        }
    }
}

#[cfg(test)]
mod tests;
