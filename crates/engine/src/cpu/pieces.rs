//! Decides how the attention of one pass is cut into pieces of work, for layers of one window.
//!
//! A piece is a unit, some rows over what they see, or a part, some rows over one chunk of positions; parts are computed first, and
//! units take their results instead of computing those chunks. There are parts for two reasons:
//!
//! - Several sequences have a chunk in the same blocks, because their prompts begin alike: its keys and values are loaded
//!   once for the rows of all of them. Only rows that see the whole chunk take part.
//! - A sequence is so long that it would keep one thread busy when the others are done.
//!
//! Chunks lie at fixed positions and units merge them in ascending order, so all ways to cut give the same bits, and the choice is
//! about time only.

use std::ops::Range;

use wharf_kernels::attention::{CHUNK, PAGE_TOKENS, partial_len};

/// Rows that a sequence has at most, when it takes part in parts: more share loads among themselves, and their results over
/// every chunk would take much memory.
const FEW_ROWS: usize = 8;

/// Query heads that share a chunk, at least, before a group of rows is cut for the sake of more threads.
const SHARED_QUERIES: usize = 24;

/// Pieces for each thread: more balance better, fewer cost less to hand out.
const PIECES: usize = 4;

/// Positions of a head below which a unit is not cut further.
const UNIT_POSITIONS: usize = 64;

/// What merging a part costs, in positions of the same head.
const MERGE_POSITIONS: usize = 16;

/// What is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) kv_heads: usize,
    /// Query heads of a KV head.
    pub(super) group: usize,
    pub(super) head_dim: usize,
    /// Positions that a row sees, its own included; `None` for all.
    pub(super) window: Option<usize>,
    pub(super) threads: usize,
}

/// Consecutive rows of one sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    /// The sequence's block table.
    pub(super) table: usize,
    pub(super) first_row: usize,
    pub(super) rows: usize,
    pub(super) first_position: usize,
}

impl Tile {
    /// Chunks of which any row sees something.
    fn seen(&self, window: usize) -> Range<usize> {
        let last = self.first_position + self.rows - 1;
        (self.first_position + 1).saturating_sub(window) / CHUNK..last / CHUNK + 1
    }

    /// Chunks that every row sees whole.
    fn whole(&self, window: usize) -> Range<usize> {
        let end = self.first_position + self.rows;
        end.saturating_sub(window).div_ceil(CHUNK)..(self.first_position + 1) / CHUNK
    }

    /// Positions that its last row sees.
    fn positions(&self, window: usize) -> usize {
        (self.first_position + self.rows).min(window)
    }
}

/// Some tiles over one chunk.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) chunk: usize,
    /// Several see the chunk whole and in the same blocks.
    pub(super) tiles: Vec<usize>,
    /// Of all tiles.
    pub(super) rows: usize,
}

/// Where the result of a tile over a chunk is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    chunk: usize,
    pub(super) part: usize,
    /// First row of the tile within the part.
    pub(super) row: usize,
}

/// Some KV heads of a tile: all of them unless the tile is one row.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) tile: usize,
    pub(super) heads: Range<usize>,
}

/// The pieces, to be begun with the last: the longest are there, because later positions of a prompt see more.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Ascending by rows.
    pub(super) parts: Vec<Part>,
    /// Where the result of each part ends for each KV head, all heads of a part side by side.
    pub(super) part_ends: Vec<usize>,
    /// In the order of rows, then heads.
    pub(super) units: Vec<Unit>,
    /// Where each unit ends in `(rows, n_heads * head_dim)`.
    pub(super) unit_ends: Vec<usize>,
    /// Of each tile, ascending by chunk.
    done: Vec<Vec<Done>>,
}

impl Pieces {
    /// `tiles` are all rows of a pass in order, `tables` the physical blocks of their sequences.
    pub(super) fn new(tiles: &[Tile], tables: &[Vec<u32>], shape: Shape) -> Pieces {
        let cut = Cut { tiles, tables, shape, window: shape.window.unwrap_or(usize::MAX) };
        let mut parts = cut.shared();
        cut.long(&mut parts);
        parts.sort_by_key(|part| part.rows);
        let mut done = vec![Vec::new(); tiles.len()];
        for (index, part) in parts.iter().enumerate() {
            let mut row = 0;
            for tile in &part.tiles {
                done[*tile].push(Done { chunk: part.chunk, part: index, row });
                row += tiles[*tile].rows;
            }
        }
        done.iter_mut().for_each(|done: &mut Vec<Done>| done.sort_by_key(|done| done.chunk));
        let (units, unit_ends) = cut.units(&done);
        let mut end = 0;
        let part_ends = parts.iter().flat_map(|part| {
            let len = partial_len(part.rows * shape.group, shape.head_dim);
            std::iter::repeat_n(len, shape.kv_heads)
        });
        let part_ends = part_ends.map(|len| {
            end += len;
            end
        });
        Pieces { part_ends: part_ends.collect(), parts, units, unit_ends, done }
    }

    /// Which part has the result of a tile over a chunk, if one has.
    pub(super) fn done(&self, tile: usize, chunk: usize) -> Option<Done> {
        let done = &self.done[tile];
        done.binary_search_by_key(&chunk, |done| done.chunk).ok().map(|at| done[at])
    }
}

struct Cut<'a> {
    tiles: &'a [Tile],
    tables: &'a [Vec<u32>],
    shape: Shape,
    window: usize,
}

impl Cut<'_> {
    /// Whether a tile is all of its sequence's rows, and few.
    fn few(&self, index: usize) -> bool {
        let Tile { table, rows, .. } = self.tiles[index];
        let other =
            |index: Option<usize>| index.and_then(|at| self.tiles.get(at)).is_none_or(|it| it.table != table);
        rows <= FEW_ROWS && other(index.checked_sub(1)) && other(index.checked_add(1))
    }

    /// Physical blocks of a chunk that a tile sees whole.
    fn blocks(&self, tile: usize, chunk: usize) -> &[u32] {
        const BLOCKS: usize = CHUNK / PAGE_TOKENS;
        &self.tables[self.tiles[tile].table][chunk * BLOCKS..(chunk + 1) * BLOCKS]
    }

    /// Parts of tiles that have a chunk in common.
    fn shared(&self) -> Vec<Part> {
        let few: Vec<(usize, Range<usize>)> = self
            .tiles
            .iter()
            .enumerate()
            .filter(|(index, _)| self.few(*index))
            .map(|(index, tile)| (index, tile.whole(self.window)))
            .filter(|(_, whole)| !whole.is_empty())
            .collect();
        let first = few.iter().map(|(_, whole)| whole.start).min().unwrap_or(0);
        let end = few.iter().map(|(_, whole)| whole.end).max().unwrap_or(0);
        let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
        // Blocks are shared from the beginning on: who has one chunk to itself has all later ones. So rows of the others are
        // compared also where their window has left the chunk.
        let mut alone = vec![false; self.tiles.len()];
        for chunk in first..end {
            let mut tiles: Vec<&(usize, Range<usize>)> =
                few.iter().filter(|(tile, whole)| chunk < whole.end && !alone[*tile]).collect();
            tiles.sort_by_key(|(tile, _)| self.blocks(*tile, chunk));
            for group in tiles.chunk_by(|(a, _), (b, _)| self.blocks(*a, chunk) == self.blocks(*b, chunk)) {
                if let [(tile, _)] = group {
                    alone[*tile] = true;
                }
                let see = group.iter().filter(|(_, whole)| whole.contains(&chunk));
                let see: Vec<usize> = see.map(|(tile, _)| *tile).collect();
                if see.len() > 1 {
                    groups.push((chunk, see));
                }
            }
        }
        let rows =
            groups.iter().flat_map(|(_, tiles)| tiles).map(|tile| self.tiles[*tile].rows).sum::<usize>();
        let Shape { kv_heads, group, threads, .. } = self.shape;
        let most = match threads {
            1 => usize::MAX,
            threads => (rows * kv_heads).div_ceil(PIECES * threads).max(SHARED_QUERIES.div_ceil(group)),
        };
        groups.into_iter().flat_map(|(chunk, tiles)| self.split(chunk, &tiles, most)).collect()
    }

    /// Parts of about equally many rows, at most about `most`.
    fn split(&self, chunk: usize, tiles: &[usize], most: usize) -> Vec<Part> {
        let rows: usize = tiles.iter().map(|tile| self.tiles[*tile].rows).sum();
        let each = rows.div_ceil(rows.div_ceil(most));
        let mut parts: Vec<Part> = Vec::new();
        for tile in tiles {
            let rows = self.tiles[*tile].rows;
            match parts.last_mut() {
                Some(part) if part.rows + rows <= each => {
                    part.tiles.push(*tile);
                    part.rows += rows;
                }
                _ => parts.push(Part { chunk, tiles: vec![*tile], rows }),
            }
        }
        parts
    }

    /// Adds parts of single tiles that are more than half a thread's share of all work. Prompts are among them only when they
    /// are so short that their results take little memory.
    fn long(&self, parts: &mut Vec<Part>) {
        if self.shape.threads == 1 {
            return;
        }
        let mut in_parts = vec![Vec::new(); self.tiles.len()];
        for part in parts.iter() {
            part.tiles.iter().for_each(|tile| in_parts[*tile].push(part.chunk));
        }
        let own = |(tile, in_parts): (&Tile, &Vec<usize>)| {
            tile.rows * (tile.positions(self.window) - CHUNK * in_parts.len())
        };
        let work: Vec<usize> = self.tiles.iter().zip(&in_parts).map(own).collect();
        let all = work.iter().sum::<usize>() + parts.iter().map(|part| part.rows * CHUNK).sum::<usize>();
        let few = self.tiles.iter().map(|tile| tile.rows).sum::<usize>() < 2 * self.shape.threads;
        for (index, tile) in self.tiles.iter().enumerate() {
            if !(few || self.few(index)) || work[index] * 2 * self.shape.threads <= all {
                continue;
            }
            let rest = tile.seen(self.window).filter(|chunk| !in_parts[index].contains(chunk));
            let rest: Vec<usize> = rest.collect();
            // A unit of one row and one chunk is cut by heads as well as parts are, and they would have to be merged.
            if rest.len() > 1 || tile.rows > 1 {
                parts.extend(rest.into_iter().map(|chunk| Part {
                    chunk,
                    tiles: vec![index],
                    rows: tile.rows,
                }));
            }
        }
    }

    /// Units and where they end.
    fn units(&self, done: &[Vec<Done>]) -> (Vec<Unit>, Vec<usize>) {
        let Shape { kv_heads, group, head_dim, threads, .. } = self.shape;
        let work: Vec<usize> = self
            .tiles
            .iter()
            .zip(done)
            .map(|(tile, done)| {
                // The last chunk is seen in part: if it is done, less is left than this takes off.
                let own = tile.positions(self.window).saturating_sub(CHUNK * done.len());
                tile.rows * (own + MERGE_POSITIONS * done.len())
            })
            .collect();
        let all = kv_heads * work.iter().sum::<usize>();
        let share = (all / (PIECES * threads)).max(UNIT_POSITIONS);
        let (mut units, mut ends, mut end) = (Vec::new(), Vec::new(), 0);
        for (index, (tile, work)) in self.tiles.iter().zip(work).enumerate() {
            let step = if tile.rows > 1 || threads == 1 { kv_heads } else { share / work.max(1) };
            let step = step.clamp(1, kv_heads);
            for first in (0..kv_heads).step_by(step) {
                let heads = first..kv_heads.min(first + step);
                end += tile.rows * heads.len() * group * head_dim;
                units.push(Unit { tile: index, heads });
                ends.push(end);
            }
        }
        (units, ends)
    }
}

#[cfg(test)]
mod tests;
