//! Decides how some rows of queries share each load of a key or value, and the order of operations within a chunk.
//!
//! Where keys and values have scales, the chains run over codes as floats, whose products with queries and weights are what
//! they would be after widening. A block's part of a score is scaled when its chain is complete and added to the parts before
//! by one fused multiply-add; a row has one set of weights for each block of the head, scaled when the weights have been
//! summed. So no scale is applied in an inner loop, nor anywhere to the keys and values, and it makes no difference
//! whether these were widened.

use std::ops::Range;

use super::{
    CHUNK, PAGE_TOKENS, PAGES, Queries,
    kv::{self, KvElement, KvPages},
    partial::{Partial, partial_len},
};
use crate::{
    isa::Kernel,
    math::exp,
    ops::cap,
    round::{BLOCK, VECTORS},
    simd::{LANES, Simd, load_part, prefetch_line, store_part},
};

/// Rows that share each load of a key or value: with six, twelve sums fill the registers of AVX2.
pub(super) const TILE: usize = 6;

/// Scores, then weights, of a tile over one chunk; where values have scales, [`TILE`] rows of weights for each block.
pub(super) type Scores = Vec<[f32; CHUNK]>;

/// Attention of all queries over one chunk.
pub(super) struct Attend<'a, 'q, T, P> {
    /// What is stored; the scales are taken from here.
    pub(super) kv: &'a KvPages<'a, T>,
    /// The keys and values to compute with: the same, or the chunk widened.
    pub(super) pages: &'a KvPages<'a, P>,
    /// Page of `pages` with which the chunk begins.
    pub(super) first_page: usize,
    /// All values of the chunk, `[256][head_dim]`, if it has been widened.
    pub(super) wide: Option<&'a [f32]>,
    pub(super) queries: &'a Queries<'q>,
    pub(super) chunk: usize,
    pub(super) scores: &'a mut Scores,
    pub(super) partial: &'a mut [f32],
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
        scores.resize(TILE * T::vector_scales(hd).max(1), [0.0; CHUNK]);
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
        let scales: [&[[f32; PAGE_TOKENS]]; N] =
            std::array::from_fn(|n| self.kv.key_scales(self.chunk * PAGES + first + n));
        // Keys of the pages that come next, and values of these: hardware prefetching stops at every page of 4 KiB, which holds no more
        // than the keys and values of one head and sixteen positions. What was widened is in a cache.
        let is_stored = self.wide.is_none();
        let ahead: [[&[P]; 2]; N] = std::array::from_fn(|n| {
            let page = self.first_page + first + n;
            let next = self.pages.keys_if_any(page + N);
            [next.unwrap_or_else(|| self.pages.keys(page)), self.pages.values(page)]
        });
        let mut scores = [[s.splat(0.0); N]; R];
        let block = if T::SCALED { BLOCK } else { hd };
        for (b, start) in (0..hd).step_by(block).enumerate() {
            let mut sums = [[s.splat(0.0); N]; R];
            for d in start..hd.min(start + block) {
                if is_stored && (d * PAGE_TOKENS * size_of::<P>()).is_multiple_of(64) {
                    for [keys, values] in &ahead {
                        prefetch_line(&keys[d * PAGE_TOKENS..]);
                        prefetch_line(&values[d * PAGE_TOKENS..]);
                    }
                }
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
            if !T::SCALED {
                scores = sums;
                break;
            }
            for n in 0..N {
                let scale = s.load(&scales[n][b]);
                for r in 0..R {
                    scores[r][n] = s.fma(scale, sums[r][n], scores[r][n]);
                }
            }
        }
        for n in 0..N {
            let page = first + n;
            for r in 0..R {
                let score = match self.queries.softcap {
                    Some(most) => cap(s, scores[r][n], most),
                    None => scores[r][n],
                };
                store_part(s, &mut self.scores[r][page * PAGE_TOKENS..][..PAGE_TOKENS], score);
            }
        }
    }

    /// Turns the scores of one row into weights of what is stored, for each scale of a value its own; those of positions that
    /// the row does not see mean nothing.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, s: S, r: usize, seen: Range<usize>) {
        let pages = seen.start / PAGE_TOKENS..seen.end.div_ceil(PAGE_TOKENS);
        let scores = &mut self.scores[r];
        scores[pages.start * PAGE_TOKENS..seen.start].fill(f32::NEG_INFINITY);
        scores[seen.end..pages.end * PAGE_TOKENS].fill(f32::NEG_INFINITY);
        let scores = &scores.as_chunks::<LANES>().0[pages.clone()];
        let mut most = s.splat(f32::NEG_INFINITY);
        for scores in scores {
            most = s.max(s.load(scores), most);
        }
        let most = s.largest(most);
        let mut total = s.splat(0.0);
        for page in pages {
            let scores = self.scores[r].as_chunks_mut::<LANES>().0;
            let weight = exp(s, s.sub(s.load(&scores[page]), s.splat(most)));
            total = s.add(total, weight);
            if !T::SCALED {
                s.store(&mut scores[page], weight);
            }
            for (b, scales) in self.kv.value_scales(self.chunk * PAGES + page).iter().enumerate() {
                let weights = &mut self.scores[b * TILE + r].as_chunks_mut::<LANES>().0[page];
                s.store(weights, s.mul(weight, s.load(scales)));
            }
        }
        self.partial.set_weight(self.row + r, most, s.sum(total));
    }

    /// Weights of row `r` of the tile for values' elements from `at` on, up to the next that has another scale.
    #[inline(always)]
    fn weights(&self, r: usize, at: usize, positions: Range<usize>) -> &[f32] {
        let block = if T::SCALED { at / BLOCK } else { 0 };
        &self.scores[block * TILE + r][positions]
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
            let row = self.row + first;
            let mut sums = [s.splat(0.0); R];
            for r in 0..R {
                sums[r] = load_part(s, &self.partial.values(row + r, at)[..width], 0.0);
            }
            match self.wide {
                Some(values) if width == LANES => {
                    let weights = std::array::from_fn(|r| self.weights(first + r, at, positions.clone()));
                    s.weighted::<R>(&mut sums, weights, &values[positions.start * hd + at..], hd);
                }
                _ => self.add_values(s, first, positions.clone(), at..at + width, &mut sums),
            }
            for r in 0..R {
                store_part(s, &mut self.partial.values(row + r, at)[..width], sums[r]);
            }
        }
    }

    /// As [`Tile::values`], for `N` vectors, at most four, of elements of the head from `at` on: a weight is read once for all of them.
    #[inline(always)]
    fn values_of<S: Simd, const R: usize, const N: usize>(
        &mut self,
        s: S,
        first: usize,
        positions: Range<usize>,
        at: usize,
    ) {
        let hd = self.kv.head_dim;
        let row = self.row + first;
        let mut sums = [[s.splat(0.0); N]; R];
        for r in 0..R {
            for (n, from) in self.partial.values(row + r, at).as_chunks().0[..N].iter().enumerate() {
                sums[r][n] = s.load(from);
            }
        }
        let mut position = positions.start;
        while position < positions.end {
            let page = position / PAGE_TOKENS;
            let end = positions.end.min((page + 1) * PAGE_TOKENS);
            let values = &self.pages.values(self.first_page + page)[position % PAGE_TOKENS * hd..];
            // Every `VECTORS` vectors have weights of their own, if values have scales.
            let weights: [[&[f32]; R]; 2] = std::array::from_fn(|half| {
                let at = (at + half * BLOCK).min(hd - 1);
                std::array::from_fn(|r| self.weights(first + r, at, position..end))
            });
            for (i, values) in values.chunks_exact(hd).take(end - position).enumerate() {
                let values: &[[P; LANES]] = &values[at..].as_chunks().0[..N];
                let mut v = [s.splat(0.0); N];
                for n in 0..N {
                    v[n] = P::load(s, &values[n]);
                }
                for r in 0..R {
                    let mut weight = s.splat(weights[0][r][i]);
                    for n in 0..N {
                        if T::SCALED && n == VECTORS {
                            weight = s.splat(weights[1][r][i]);
                        }
                        sums[r][n] = s.fma(weight, v[n], sums[r][n]);
                    }
                }
            }
            position = end;
        }
        for r in 0..R {
            for (n, to) in self.partial.values(row + r, at).as_chunks_mut().0[..N].iter_mut().enumerate() {
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
            let weights: [&[f32]; R] =
                std::array::from_fn(|r| self.weights(first + r, elements.start, position..end));
            for (i, position) in (position..end).enumerate() {
                let v = kv::load(s, &values[position % PAGE_TOKENS * hd..][elements.clone()]);
                for r in 0..R {
                    sums[r] = s.fma(s.splat(weights[r][i]), v, sums[r]);
                }
            }
            position = end;
        }
    }
}
