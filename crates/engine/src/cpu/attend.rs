//! Decides how the attention of one pass is cut into pieces of work.
//!
//! With many queries a piece is a few consecutive queries of one sequence over everything they see. With few, as when one stream
//! decodes at a long context, a piece is one KV head over one chunk of positions, and the results are merged. Both give the
//! same bits, so the choice is about balance only.

use wharf_kernels::attention::{self, KvElement, Queries, Scratch};
use wharf_kernels::{Isa, Team};
use wharf_model::ModelConfig;

use super::kv::KvArena;
use crate::backend::{BLOCK_TOKENS, BlockId, Chunk};

/// Query positions of a piece of work: they share the conversion of keys and values.
const TILE: usize = 16;

/// The rows of a pass: which sequence and position each is, and how attention over them is cut.
pub(super) struct Plan {
    tables: Vec<Vec<u32>>,
    /// Position of each row of the batch.
    positions: Vec<usize>,
    tiles: Vec<Tile>,
    logit_rows: Vec<usize>,
    /// Blocks that are written, each with its rows, ascending by block.
    writes: Vec<Write>,
    few: bool,
}

/// Consecutive rows of one sequence.
#[derive(Clone, Copy, Debug)]
struct Tile {
    table: usize,
    first_row: usize,
    rows: usize,
    first_position: usize,
}

/// Rows whose KV goes to one block.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) block: BlockId,
    /// `(row, slot)`.
    pub(super) rows: Vec<(usize, usize)>,
}

impl Plan {
    pub(super) fn new(chunks: &[Chunk<'_>], threads: usize) -> Plan {
        let mut plan = Plan {
            tables: Vec::with_capacity(chunks.len()),
            positions: Vec::new(),
            tiles: Vec::new(),
            logit_rows: Vec::new(),
            writes: Vec::new(),
            few: false,
        };
        for (table, chunk) in chunks.iter().enumerate() {
            plan.tables.push(chunk.blocks.iter().map(|block| block.0).collect());
            let (first, first_write) = (plan.positions.len(), plan.writes.len());
            let count = chunk.tokens.len();
            for offset in 0..count {
                let position = chunk.start + offset;
                let (block, slot) = (chunk.blocks[position / BLOCK_TOKENS], position % BLOCK_TOKENS);
                match plan.writes[first_write..].last_mut() {
                    Some(write) if write.block == block => write.rows.push((first + offset, slot)),
                    _ => plan.writes.push(Write { block, rows: vec![(first + offset, slot)] }),
                }
                plan.positions.push(position);
            }
            for offset in (0..count).step_by(TILE) {
                plan.tiles.push(Tile {
                    table,
                    first_row: first + offset,
                    rows: TILE.min(count - offset),
                    first_position: chunk.start + offset,
                });
            }
            plan.logit_rows.extend(first + count - chunk.logits.rows(count)..first + count);
        }
        plan.writes.sort_by_key(|write| write.block);
        plan.few = threads > 1 && plan.positions.len() < 2 * threads;
        plan
    }

    pub(super) fn rows(&self) -> usize {
        self.positions.len()
    }

    pub(super) fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.positions.iter().copied()
    }

    /// Rows whose logits are wanted, ascending.
    pub(super) fn logit_rows(&self) -> &[usize] {
        &self.logit_rows
    }

    /// Blocks that the pass writes, ascending, with their rows.
    pub(super) fn writes(&self) -> &[Write] {
        &self.writes
    }
}

/// One layer's attention.
pub(super) struct Attention<'a, T> {
    pub(super) config: &'a ModelConfig,
    pub(super) isa: Isa,
    pub(super) team: &'a Team,
    pub(super) plan: &'a Plan,
    pub(super) kv: &'a KvArena<T>,
    pub(super) layer: usize,
    /// `(rows, q + k + v)`, rotated and scaled.
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
    /// `out: (rows, n_heads * head_dim)`.
    pub(super) fn run(&self, lanes: &mut [Lane], partials: &mut Vec<f32>, out: &mut [f32]) {
        if self.plan.few {
            self.by_head_and_chunk(lanes, partials, out);
        } else {
            self.by_tile(lanes, out);
        }
    }

    fn by_tile(&self, lanes: &mut [Lane], out: &mut [f32]) {
        let width = self.config.n_heads * self.config.head_dim;
        let group_width = self.group_width();
        // Tiles are the same rows in the same order as `out`, but the last of a sequence may be short: handing out rows of
        // `out` by tile needs their boundaries.
        let tiles = &self.plan.tiles;
        let mut rest = out;
        let mut pieces: Vec<std::sync::Mutex<&mut [f32]>> = Vec::with_capacity(tiles.len());
        for tile in tiles {
            let (piece, tail) = rest.split_at_mut(tile.rows * width);
            pieces.push(std::sync::Mutex::new(piece));
            rest = tail;
        }
        self.team.for_each_with(lanes, tiles.len(), 1, &|lane, range| {
            for index in range {
                // Later positions see more: the longest work goes first.
                let index = tiles.len() - 1 - index;
                let tile = &tiles[index];
                let mut piece = pieces[index].lock().expect("each piece is claimed once");
                for head in 0..self.config.n_kv_heads {
                    let Lane { scratch, q, out } = &mut *lane;
                    self.gather(tile, head, q);
                    out.resize(tile.rows * group_width, 0.0);
                    let pages = self.kv.pages(&self.plan.tables[tile.table], self.layer, head);
                    attention::attend(self.isa, &pages, &self.queries(tile, q), scratch, out);
                    for (row, from) in out.chunks(group_width).enumerate() {
                        piece[row * width + head * group_width..][..group_width].copy_from_slice(from);
                    }
                }
            }
        });
    }

    fn by_head_and_chunk(&self, lanes: &mut [Lane], partials: &mut Vec<f32>, out: &mut [f32]) {
        let head_dim = self.config.head_dim;
        let width = self.config.n_heads * head_dim;
        let group_width = self.group_width();
        let mut pieces = Vec::new();
        for (index, tile) in self.plan.tiles.iter().enumerate() {
            for head in 0..self.config.n_kv_heads {
                let chunks = self.queries(tile, &self.qkv[..tile.rows * group_width]).chunks(head_dim);
                pieces.extend(chunks.map(|chunk| (index, head, chunk)));
            }
        }
        // Rows of a piece differ between tiles; the largest tile sets the stride.
        let most_rows = self.plan.tiles.iter().map(|tile| tile.rows).max().unwrap_or(0);
        let stride = attention::partial_len(most_rows * self.group(), head_dim);
        partials.resize(pieces.len() * stride, 0.0);
        let slots: Vec<std::sync::Mutex<&mut [f32]>> =
            partials.chunks_mut(stride).map(std::sync::Mutex::new).collect();
        self.team.for_each_with(lanes, pieces.len(), 1, &|lane, range| {
            for index in range {
                let (tile, head, chunk) = pieces[index];
                let tile = &self.plan.tiles[tile];
                let Lane { scratch, q, .. } = &mut *lane;
                self.gather(tile, head, q);
                let pages = self.kv.pages(&self.plan.tables[tile.table], self.layer, head);
                let len = attention::partial_len(tile.rows * self.group(), head_dim);
                let mut slot = slots[index].lock().expect("each slot is claimed once");
                attention::attend_chunk(
                    self.isa,
                    &pages,
                    &self.queries(tile, q),
                    chunk,
                    scratch,
                    &mut slot[..len],
                );
            }
        });
        drop(slots);
        let merged = &mut lanes[0].out;
        for group in pieces.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (tile, head, _) = group[0];
            let tile = &self.plan.tiles[tile];
            let first = pieces.partition_point(|piece| (piece.0, piece.1) < (group[0].0, group[0].1));
            let len = attention::partial_len(tile.rows * self.group(), head_dim);
            let parts = &mut partials[first * stride..(first + group.len()) * stride];
            // `merge` wants the parts without gaps.
            for part in 1..group.len() {
                parts.copy_within(part * stride..part * stride + len, part * len);
            }
            merged.resize(tile.rows * group_width, 0.0);
            attention::merge(self.isa, &mut parts[..group.len() * len], head_dim, merged);
            for (row, from) in merged.chunks(group_width).enumerate() {
                out[(tile.first_row + row) * width + head * group_width..][..group_width]
                    .copy_from_slice(from);
            }
        }
    }

    fn group(&self) -> usize {
        self.config.n_heads / self.config.n_kv_heads
    }

    fn group_width(&self) -> usize {
        self.group() * self.config.head_dim
    }

    /// Queries of a tile for the heads that share KV head `head`: `(rows, group, head_dim)`.
    fn gather(&self, tile: &Tile, head: usize, q: &mut Vec<f32>) {
        let stride = (self.config.n_heads + 2 * self.config.n_kv_heads) * self.config.head_dim;
        let width = self.group_width();
        q.clear();
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
