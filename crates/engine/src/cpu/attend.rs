//! Decides how the pieces of one layer's attention are computed: what each reads and where its result goes.

use std::ops::Range;

use wharf_kernels::attention::{self, KvElement, Queries, Scratch, partial_len};
use wharf_kernels::{Isa, Team};
use wharf_model::ModelConfig;

use super::kv::KvArena;
use super::pieces::{Part, Pieces, Tile, Unit};
use super::plan::Plan;
use super::spread::spread;

/// One layer's attention.
pub(super) struct Attention<'a, T> {
    pub(super) config: &'a ModelConfig,
    pub(super) isa: Isa,
    pub(super) team: &'a Team,
    pub(super) plan: &'a Plan,
    pub(super) kv: &'a KvArena<T>,
    pub(super) layer: usize,
    /// `(rows, q + k + v)`, rotated and scaled, and spread where keys and values have scales.
    pub(super) qkv: &'a [f32],
}

/// Buffers of one thread.
#[derive(Default)]
pub(super) struct Lane {
    scratch: Scratch,
    q: Vec<f32>,
    out: Vec<f32>,
}

impl<T: KvElement> Attention<'_, T> {
    /// `out: (rows, n_heads * head_dim)`. `partials` is memory for results of parts.
    pub(super) fn run(&self, lanes: &mut [Lane], partials: &mut Vec<f32>, out: &mut [f32]) {
        let pieces = self.plan.pieces(self.config.layers[self.layer].window);
        let len = pieces.part_ends.last().copied().unwrap_or(0);
        if partials.len() < len {
            partials.resize(len, 0.0);
        }
        let heads = self.config.n_kv_heads;
        self.team.for_each_part_with(lanes, partials, &pieces.part_ends, &|lane, index, partial| {
            self.part(lane, &pieces.parts[index / heads], index % heads, partial);
        });
        let partials = &partials[..];
        self.team.for_each_part_with(lanes, out, &pieces.unit_ends, &|lane, index, out| {
            self.unit(lane, pieces, &pieces.units[index], partials, out);
        });
    }

    /// One KV head of some tiles over one chunk.
    fn part(&self, lane: &mut Lane, part: &Part, head: usize, partial: &mut [f32]) {
        let Lane { scratch, q, .. } = lane;
        q.clear();
        for tile in &part.tiles {
            self.gather(&self.plan.tiles[*tile], head, q);
        }
        let tile = &self.plan.tiles[part.tiles[0]];
        let queries = match &part.tiles[..] {
            [_] => self.queries(tile, q),
            _ => Queries::of_chunk(q, self.config.head_dim, part.chunk, self.config.attn_softcap),
        };
        let pages = self.kv.pages(&self.plan.tables[tile.table], self.layer, head);
        attention::attend_chunk(self.isa, &pages, &queries, part.chunk, scratch, partial);
    }

    /// Some KV heads of a tile over everything that it sees; `out: (rows, heads * group * head_dim)`.
    fn unit(&self, lane: &mut Lane, pieces: &Pieces, unit: &Unit, partials: &[f32], out: &mut [f32]) {
        let tile = &self.plan.tiles[unit.tile];
        let width = self.group() * self.config.head_dim;
        for head in unit.heads.clone() {
            let Lane { scratch, q, out: attended } = &mut *lane;
            q.clear();
            self.gather(tile, head, q);
            attended.resize(tile.rows * width, 0.0);
            let pages = self.kv.pages(&self.plan.tables[tile.table], self.layer, head);
            let done = |chunk| Some(&partials[self.result(pieces, unit.tile, chunk, head)?]);
            attention::attend_rest(self.isa, &pages, &self.queries(tile, q), &done, scratch, attended);
            if T::SCALED {
                attended.chunks_exact_mut(self.config.head_dim).for_each(spread);
            }
            let rows = out.chunks_exact_mut(unit.heads.len() * width);
            for (out, attended) in rows.zip(attended.chunks_exact(width)) {
                out[(head - unit.heads.start) * width..][..width].copy_from_slice(attended);
            }
        }
    }

    /// Where among the results of parts that of a tile over a chunk is, if there is one.
    fn result(&self, pieces: &Pieces, tile: usize, chunk: usize, head: usize) -> Option<Range<usize>> {
        let done = pieces.done(tile, chunk)?;
        let len = |rows: usize| partial_len(rows * self.group(), self.config.head_dim);
        let end = pieces.part_ends[done.part * self.config.n_kv_heads + head];
        let first = end - len(pieces.parts[done.part].rows) + len(done.row);
        Some(first..first + len(self.plan.tiles[tile].rows))
    }

    /// Query heads of a KV head.
    fn group(&self) -> usize {
        self.config.n_heads / self.config.n_kv_heads
    }

    /// Appends queries of a tile for the heads that share KV head `head`: `(rows, group, head_dim)`.
    fn gather(&self, tile: &Tile, head: usize, q: &mut Vec<f32>) {
        let stride = (self.config.n_heads + 2 * self.config.n_kv_heads) * self.config.head_dim;
        let width = self.group() * self.config.head_dim;
        for row in tile.first_row..tile.first_row + tile.rows {
            q.extend_from_slice(&self.qkv[row * stride + head * width..][..width]);
        }
    }

    fn queries<'q>(&self, tile: &Tile, q: &'q [f32]) -> Queries<'q> {
        Queries {
            q,
            group: self.group(),
            first: tile.first_position,
            window: self.config.layers[self.layer].window.unwrap_or(usize::MAX),
            softcap: self.config.attn_softcap,
        }
    }
}
