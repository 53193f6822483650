//! Decides what a pass sends to the GPU and where: rows of embeddings, places of keys and values, tiles of attention, tables of blocks,
//! rotations, and which rows need logits.
//!
//! A pass of one token a sequence is rounded up to a [`Shape`] that others share, so that its launches can be recorded once.

use wharf_engine::rope::Rotations;
use wharf_engine::{BLOCK_TOKENS, Chunk};
use wharf_model::ModelConfig;

/// Rows of a tile of attention: query positions times query heads of one KV head.
const TILE_ROWS: usize = 16;
/// Pages that a split of attention has at least: fewer are not worth bringing together.
const FEWEST_PAGES: usize = 8;
/// Most rows of logits that are computed at once.
pub(crate) const LOGIT_ROWS: usize = 64;

/// Sizes that decide every launch of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    /// Rows computed, padding included.
    pub(crate) rows: usize,
    /// Tiles of attention, padding included.
    pub(crate) tiles: usize,
    /// Entries of all tables.
    pub(crate) table: usize,
    /// Rows that need logits, padding included.
    pub(crate) logits: usize,
    /// Parts that attention over a sequence is split into.
    pub(crate) splits: usize,
    /// Pages of a split.
    pub(crate) split_pages: usize,
    /// Whether a pass of this shape comes again: one token a sequence.
    pub(crate) steady: bool,
}

/// Where each section begins, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Offsets {
    pub(crate) x: usize,
    pub(crate) slots: usize,
    pub(crate) tiles: usize,
    pub(crate) table: usize,
    pub(crate) logit_rows: usize,
    /// Cosines and sines of each rotary embedding.
    pub(crate) rotations: Vec<(usize, usize)>,
    /// Bytes of all.
    pub(crate) len: usize,
}

/// What the model and the GPU say about shapes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) multiprocessors: usize,
    /// Blocks of attention for one tile and split.
    pub(crate) heads: usize,
    /// Query positions of a tile.
    pub(crate) positions: usize,
}

impl Limits {
    pub(crate) fn new(config: &ModelConfig, multiprocessors: usize) -> Limits {
        let group = config.n_heads / config.n_kv_heads;
        Limits {
            multiprocessors,
            heads: config.n_kv_heads * group.div_ceil(TILE_ROWS),
            positions: TILE_ROWS / group.min(TILE_ROWS),
        }
    }

    /// The most blocks that leave a part of attention each: splits double until there are twice as many blocks as multiprocessors.
    pub(crate) fn most_parts(self) -> usize {
        4 * self.multiprocessors
    }
}

impl Shape {
    pub(crate) fn new(chunks: &[Chunk<'_>], limits: Limits) -> Shape {
        let rows: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        let tiles: usize = chunks.iter().map(|chunk| chunk.tokens.len().div_ceil(limits.positions)).sum();
        let table: usize = chunks.iter().map(|chunk| pages(chunk)).sum();
        let logits: usize = chunks.iter().map(|chunk| chunk.logits.rows(chunk.tokens.len())).sum();
        let most_pages = chunks.iter().map(pages).max().unwrap_or(1).next_power_of_two();
        let steady = rows == chunks.len() && logits == rows && rows <= LOGIT_ROWS;
        let up = |n: usize| if steady { n.next_power_of_two() } else { n };
        let (rows, tiles) = (up(rows), up(tiles));
        // As many as give every multiprocessor two blocks, and no more than have something to do.
        let mut splits = 1;
        while tiles * limits.heads * splits < 2 * limits.multiprocessors
            && most_pages / (2 * splits) >= FEWEST_PAGES
        {
            splits *= 2;
        }
        Shape {
            rows,
            tiles,
            table: up(table),
            logits: up(logits),
            splits,
            split_pages: most_pages / splits,
            steady,
        }
    }

    /// Where the sections of a pass lie.
    pub(crate) fn offsets(&self, config: &ModelConfig) -> Offsets {
        let mut len = 0;
        let mut section = |bytes: usize| {
            let at = len;
            // What is read as whole words of four begins at one.
            len += bytes.next_multiple_of(16);
            at
        };
        let x = section(self.rows * config.hidden_size * 4);
        let slots = section(self.rows * 4);
        let tiles = section(self.tiles * 16);
        let table = section(self.table * 4);
        let logit_rows = section(self.logits * 4);
        let rotations = config
            .ropes
            .iter()
            .map(|rope| {
                let bytes = self.rows * rope.inv_freq.len() * 4;
                (section(bytes), section(bytes))
            })
            .collect();
        Offsets { x, slots, tiles, table, logit_rows, rotations, len }
    }
}

/// KV pages that a chunk reads or writes.
fn pages(chunk: &Chunk<'_>) -> usize {
    (chunk.start + chunk.tokens.len()).div_ceil(BLOCK_TOKENS)
}

/// Writes all sections but the embeddings.
pub(crate) fn write(
    chunks: &[Chunk<'_>],
    shape: Shape,
    limits: Limits,
    offsets: &Offsets,
    config: &ModelConfig,
    to: &mut [u8],
) {
    let mut slots = Ints::at(offsets.slots);
    let mut tiles = Ints::at(offsets.tiles);
    let mut table = Ints::at(offsets.table);
    let mut logit_rows = Ints::at(offsets.logit_rows);
    let mut row = 0;
    for chunk in chunks {
        let count = chunk.tokens.len();
        for position in chunk.start..chunk.start + count {
            let block = chunk.blocks[position / BLOCK_TOKENS].0 as usize;
            slots.push(to, block * BLOCK_TOKENS + position % BLOCK_TOKENS);
        }
        let first_entry = table.written;
        for offset in (0..count).step_by(limits.positions) {
            let rows = limits.positions.min(count - offset);
            let tile = [row + offset, rows, chunk.start + offset, first_entry];
            tile.into_iter().for_each(|value| tiles.push(to, value));
        }
        chunk.blocks[..pages(chunk)].iter().for_each(|block| table.push(to, block.0 as usize));
        (row + count - chunk.logits.rows(count)..row + count).for_each(|row| logit_rows.push(to, row));
        row += count;
    }
    // Padding: rows that are written nowhere, tiles without rows, and logits of row 0.
    slots.fill(to, shape.rows, -1);
    tiles.fill(to, 4 * shape.tiles, 0);
    table.fill(to, shape.table, 0);
    logit_rows.fill(to, shape.logits, 0);
    for (rope, (cos_at, sin_at)) in config.ropes.iter().zip(&offsets.rotations) {
        let mut rotations = Rotations::default();
        rotations.fill(rope, chunks.iter().flat_map(|chunk| chunk.start..chunk.start + chunk.tokens.len()));
        let (cos, sin) = rotations.all();
        for (at, values) in [(*cos_at, cos), (*sin_at, sin)] {
            for (place, value) in to[at..].chunks_exact_mut(4).zip(values) {
                place.copy_from_slice(&value.to_le_bytes());
            }
        }
    }
}

/// A section of integers, filled from its beginning.
struct Ints {
    at: usize,
    written: usize,
}

impl Ints {
    fn at(at: usize) -> Ints {
        Ints { at, written: 0 }
    }

    fn push(&mut self, to: &mut [u8], value: usize) {
        let value = i32::try_from(value).expect("rows and blocks are far below 2^31");
        self.put(to, value);
    }

    fn put(&mut self, to: &mut [u8], value: i32) {
        to[self.at + 4 * self.written..][..4].copy_from_slice(&value.to_le_bytes());
        self.written += 1;
    }

    fn fill(&mut self, to: &mut [u8], until: usize, value: i32) {
        while self.written < until {
            self.put(to, value);
        }
    }
}
