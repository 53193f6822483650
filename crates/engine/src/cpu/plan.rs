//! Decides which sequence and position each row of a pass is, which blocks it writes, and which rows need logits.

use wharf_model::ModelConfig;

use super::pieces::{Pieces, Shape, Tile};
use crate::backend::{BLOCK_TOKENS, BlockId, Chunk};

/// Query positions of one sequence that a piece of attention has at most, and how many it has where threads would have too few
/// pieces: they share the conversion of keys and values.
const TILES: [usize; 2] = [16, 8];

/// The rows of a pass, and how attention over them is cut.
pub(super) struct Plan {
    /// Physical blocks of each sequence.
    pub(super) tables: Vec<Vec<u32>>,
    /// All rows, in order.
    pub(super) tiles: Vec<Tile>,
    /// Position of each row of the batch.
    positions: Vec<usize>,
    logit_rows: Vec<usize>,
    /// Blocks that are written, each with its rows, ascending by block.
    writes: Vec<Write>,
    /// For each window that a layer has.
    pieces: Vec<(Option<usize>, Pieces)>,
}

/// Rows whose KV goes to one block.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) block: BlockId,
    /// `(row, slot)`.
    pub(super) rows: Vec<(usize, usize)>,
}

impl Plan {
    pub(super) fn new(chunks: &[Chunk<'_>], config: &ModelConfig, threads: usize) -> Plan {
        let mut plan = Plan {
            tables: Vec::with_capacity(chunks.len()),
            tiles: Vec::new(),
            positions: Vec::new(),
            logit_rows: Vec::new(),
            writes: Vec::new(),
            pieces: Vec::new(),
        };
        let rows: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        let [most, less] = TILES;
        let most = if threads == 1 { most } else { rows.div_ceil(2 * threads).clamp(less, most) };
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
            for offset in (0..count).step_by(most) {
                plan.tiles.push(Tile {
                    table,
                    first_row: first + offset,
                    rows: most.min(count - offset),
                    first_position: chunk.start + offset,
                });
            }
            plan.logit_rows.extend(first + count - chunk.logits.rows(count)..first + count);
        }
        plan.writes.sort_by_key(|write| write.block);
        for layer in &config.layers {
            if !plan.pieces.iter().any(|(window, _)| *window == layer.window) {
                let shape = Shape {
                    kv_heads: config.n_kv_heads,
                    group: config.n_heads / config.n_kv_heads,
                    head_dim: config.head_dim,
                    window: layer.window,
                    threads,
                };
                plan.pieces.push((layer.window, Pieces::new(&plan.tiles, &plan.tables, shape)));
            }
        }
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

    /// The pieces of layers with `window`.
    pub(super) fn pieces(&self, window: Option<usize>) -> &Pieces {
        let found = self.pieces.iter().find(|(known, _)| *known == window);
        &found.expect("every layer's window was planned for").1
    }
}

#[cfg(test)]
mod tests {
    use wharf_model::Model;
    use wharf_testkit::TinyModel;

    use super::*;
    use crate::backend::LogitsFor;

    #[test]
    fn prompts_are_cut_finer_for_more_threads() {
        let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
        TinyModel::default().write(file.path()).unwrap();
        let config = Model::open(file.path()).unwrap().config;
        let blocks: Vec<BlockId> = (0..4).map(BlockId).collect();
        let chunk = Chunk { tokens: &[7; 50], start: 0, blocks: &blocks, logits: LogitsFor::Last };
        for (threads, expected) in
            [(1, &[16, 16, 16, 2][..]), (2, &[13, 13, 13, 11]), (4, &[8, 8, 8, 8, 8, 8, 2])]
        {
            let plan = Plan::new(&[chunk], &config, threads);
            assert_eq!(plan.tiles.iter().map(|tile| tile.rows).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn layers_of_one_window_have_the_same_pieces_and_share_what_their_window_allows() {
        let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
        TinyModel { n_layers: 4, ..TinyModel::default() }.write(file.path()).unwrap();
        let mut config = Model::open(file.path()).unwrap().config;
        config.layers[1].window = Some(100);
        config.layers[3].window = Some(100);
        // Both have the first sixteen blocks in common, and one of their own.
        let blocks = |own: u32| -> Vec<BlockId> { (0..16).chain([own]).map(BlockId).collect() };
        let (a, b) = (blocks(20), blocks(21));
        let chunk = |blocks| Chunk { tokens: &[7], start: 260, blocks, logits: LogitsFor::Last };
        let plan = Plan::new(&[chunk(&a), chunk(&b)], &config, 1);
        assert_eq!(plan.pieces.len(), 2);
        assert_eq!(plan.pieces(None).parts[0].tiles, [0, 1]);
        assert_eq!(plan.pieces(Some(100)).parts.len(), 0);
        let writes: Vec<_> = plan.writes().iter().map(|write| (write.block.0, &write.rows[..])).collect();
        assert_eq!(writes, [(20, &[(0, 4)][..]), (21, &[(1, 4)])]);
        assert_eq!((plan.logit_rows(), plan.rows()), (&[0, 1][..], 2));
    }
}
