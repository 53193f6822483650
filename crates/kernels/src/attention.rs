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
//! Where keys and values are signed bytes with a scale for each 32 elements, a score is the chain over these blocks of
//! `scale · (chain over the block's codes)`, and a value's element is weighted by `weight · scale`; the normaliser sees no scale.

mod compiled;
mod kv;
mod partial;
mod queries;
mod tile;

pub use kv::{KvElement, KvPages, KvScales, PageMut, write_kv};
pub use partial::partial_len;
pub use queries::Queries;

use partial::{Partial, absorb, finish};
use tile::{Scores, TILE};

use crate::{Isa, simd::LANES};

/// Positions of a page.
pub const PAGE_TOKENS: usize = LANES;

/// Positions whose results are computed apart and then merged: `CHUNK · c .. CHUNK · (c + 1)`.
pub const CHUNK: usize = 256;

/// Pages of a chunk.
const PAGES: usize = CHUNK / PAGE_TOKENS;

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
    attend_rest(isa, kv, queries, &|_| None, scratch, out);
}

/// As [`attend`], where `done` has the results over some chunks already: what [`attend_chunk`] gave for these rows, alone
/// or among others.
///
/// # Panics
/// As [`attend`], and when a result is not that of as many rows.
pub fn attend_rest<'r, T: KvElement>(
    isa: Isa,
    kv: &KvPages<'_, T>,
    queries: &Queries<'_>,
    done: &dyn Fn(usize) -> Option<&'r [f32]>,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let mut total = std::mem::take(&mut scratch.total);
    let mut part = std::mem::take(&mut scratch.part);
    let len = partial_len(queries.rows(kv.head_dim), kv.head_dim);
    total.resize(len, 0.0);
    part.resize(len, 0.0);
    Partial::new(&mut total, kv.head_dim).clear();
    for chunk in queries.chunks(kv.head_dim) {
        match done(chunk) {
            Some(done) => absorb(isa, &mut total, done, kv.head_dim),
            None => {
                attend_chunk(isa, kv, queries, chunk, scratch, &mut part);
                absorb(isa, &mut total, &part, kv.head_dim);
            }
        }
    }
    finish(isa, &total, kv.head_dim, out);
    (scratch.total, scratch.part) = (total, part);
}

/// Attention of all queries over one chunk of positions, for [`attend_rest`] to merge with the other chunks of
/// [`Queries::chunks`]. `partial` has [`partial_len`] elements, as many for each row.
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
    assert_eq!(kv.scales.is_some(), T::SCALED, "scales for the types that have some");
    T::attend_chunk(isa, kv, queries, chunk, scratch, partial);
}

#[cfg(test)]
mod tests;
