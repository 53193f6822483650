//! Decides where the keys and values of a position lie in memory.
//!
//! A block holds 16 positions of every layer and KV head: `[block][layer][kv head][K page, V page]`, so that a block is one
//! contiguous piece and memory is touched block by block. The layout within a page is the attention kernel's. Scales, for types
//! that have some, lie apart in the same order, `[block][layer][kv head][K scales, V scales]`: neither slice needs to be
//! read as anything but what it is.

use wharf_kernels::attention::{KvElement, KvPages, KvScales, PAGE_TOKENS, PageMut};
use wharf_model::ModelConfig;

use crate::backend::BlockId;

/// KV memory of a model, in elements of one type.
pub(super) struct KvArena<T> {
    /// Zeroed by the system on first touch, so unused blocks cost no memory.
    data: Vec<T>,
    /// Empty for types without.
    scales: Vec<f32>,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl<T: KvElement> KvArena<T> {
    /// Memory for `blocks` blocks. `zeros` allocates: only the caller knows a way that leaves pages untouched.
    pub(super) fn new(
        zeros: impl FnOnce(usize) -> Vec<T>,
        blocks: usize,
        config: &ModelConfig,
    ) -> KvArena<T> {
        let (layers, kv_heads, head_dim) = (config.layers.len(), config.n_kv_heads, config.head_dim);
        let pages = blocks * layers * kv_heads;
        KvArena {
            data: zeros(pages * 2 * head_dim * PAGE_TOKENS),
            scales: vec![0.0; pages * T::PAGE_SCALES],
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
    fn layer_len(&self) -> usize {
        self.kv_heads * self.head_len()
    }

    /// Scales of one layer of a block.
    fn layer_scales(&self) -> usize {
        self.kv_heads * T::PAGE_SCALES
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
            scales: (T::PAGE_SCALES > 0).then_some(KvScales {
                data: &self.scales,
                stride: self.layers * self.layer_scales(),
                offset: layer * self.layer_scales() + head * T::PAGE_SCALES,
            }),
        }
    }

    /// One layer of some blocks, to be written by different threads.
    ///
    /// # Panics
    /// When the blocks do not ascend or there are no such blocks.
    pub(super) fn layer_mut(
        &mut self,
        blocks: impl Iterator<Item = BlockId>,
        layer: usize,
    ) -> Vec<LayerMut<'_, T>> {
        let (len, scales_len, head_dim) = (self.layer_len(), self.layer_scales(), self.head_dim);
        let (mut data, mut scales) = (&mut self.data[..], &mut self.scales[..]);
        let mut next = 0;
        blocks
            .map(|block| {
                let index = block.0 as usize * self.layers + layer;
                let skip = index.checked_sub(next).expect("blocks ascend");
                next = index + 1;
                LayerMut {
                    data: cut(&mut data, skip, len),
                    scales: cut(&mut scales, skip, scales_len),
                    head_dim,
                }
            })
            .collect()
    }
}

/// Takes off the piece of `len` elements behind `skip` others; `rest` begins behind it afterwards.
fn cut<'a, E>(rest: &mut &'a mut [E], skip: usize, len: usize) -> &'a mut [E] {
    let (_, piece) = std::mem::take(rest).split_at_mut(skip * len);
    let (piece, tail) = piece.split_at_mut(len);
    *rest = tail;
    piece
}

/// One layer of a block, while it is written.
pub(super) struct LayerMut<'a, T> {
    data: &'a mut [T],
    scales: &'a mut [f32],
    head_dim: usize,
}

impl<T: KvElement> LayerMut<'_, T> {
    /// The page of one KV head.
    pub(super) fn page(&mut self, head: usize) -> PageMut<'_, T> {
        let len = self.head_dim * PAGE_TOKENS;
        let (keys, values) = self.data[head * 2 * len..][..2 * len].split_at_mut(len);
        PageMut { keys, values, scales: &mut self.scales[head * T::PAGE_SCALES..][..T::PAGE_SCALES] }
    }
}
