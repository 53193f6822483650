//! Decides where the keys and values of a position lie in memory.
//!
//! A block holds 16 positions of every layer and KV head: `[block][layer][kv head][K page, V page]`, so that a block is one
//! contiguous piece and memory is touched block by block. The layout within a page is the attention kernel's.

use wharf_kernels::attention::{KvElement, KvPages, PAGE_TOKENS};

use crate::backend::BlockId;

/// KV memory of a model, in elements of one type.
pub(super) struct KvArena<T> {
    /// Zeroed by the system on first touch, so unused blocks cost no memory.
    data: Vec<T>,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl<T: KvElement> KvArena<T> {
    /// Memory for `blocks` blocks. `zeros` allocates: only the caller knows a way that leaves pages untouched.
    pub(super) fn new(
        zeros: impl FnOnce(usize) -> Vec<T>,
        blocks: usize,
        layers: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> KvArena<T> {
        KvArena {
            data: zeros(blocks * layers * kv_heads * 2 * head_dim * PAGE_TOKENS),
            layers,
            kv_heads,
            head_dim,
        }
    }

    /// Elements of the K and V pages of one head.
    fn head_len(&self) -> usize {
        2 * self.head_dim * PAGE_TOKENS
    }

    /// Elements of one layer of a block.
    pub(super) fn layer_len(&self) -> usize {
        self.kv_heads * self.head_len()
    }

    /// Index, in units of [`KvArena::layer_len`], of a layer of a block.
    pub(super) fn layer_index(&self, block: BlockId, layer: usize) -> usize {
        block.0 as usize * self.layers + layer
    }

    /// The pages of one head that `table` (physical block of each 16 positions) names.
    pub(super) fn pages<'a>(&'a self, table: &'a [u32], layer: usize, head: usize) -> KvPages<'a, T> {
        let k_offset = layer * self.layer_len() + head * self.head_len();
        KvPages {
            data: &self.data,
            table,
            page_stride: self.layers * self.layer_len(),
            k_offset,
            v_offset: k_offset + self.head_dim * PAGE_TOKENS,
            head_dim: self.head_dim,
        }
    }

    /// Everything, to be cut into chunks of [`KvArena::layer_len`].
    pub(super) fn data_mut(&mut self) -> &mut [T] {
        &mut self.data
    }
}
