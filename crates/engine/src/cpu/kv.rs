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
            scales: vec![0.0; pages * T::page_scales(head_dim)],
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

    /// Scales of the K and V pages of one head.
    fn head_scales(&self) -> usize {
        T::page_scales(self.head_dim)
    }

    /// Scales of one layer of a block.
    fn layer_scales(&self) -> usize {
        self.kv_heads * self.head_scales()
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
            scales: T::SCALED.then_some(KvScales {
                data: &self.scales,
                stride: self.layers * self.layer_scales(),
                offset: layer * self.layer_scales() + head * self.head_scales(),
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
        let scales = T::page_scales(self.head_dim);
        PageMut { keys, values, scales: &mut self.scales[head * scales..][..scales] }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use wharf_model::Model;
    use wharf_testkit::TinyModel;

    use super::*;
    use crate::cpu::KvType;

    fn config() -> ModelConfig {
        let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
        TinyModel::default().write(file.path()).unwrap();
        Model::open(file.path()).unwrap().config
    }

    #[test]
    fn an_arena_takes_what_its_type_says() {
        fn bytes<T: KvElement>(config: &ModelConfig) -> usize {
            let arena: KvArena<T> = KvArena::new(|len| vec![T::default(); len], 3, config);
            size_of_val(&arena.data[..]) + size_of_val(&arena.scales[..])
        }
        for head_dim in [16, 32, 48, 128] {
            let config = ModelConfig { head_dim, ..config() };
            for (kv_type, found) in [
                (KvType::F16, bytes::<f16>(&config)),
                (KvType::F32, bytes::<f32>(&config)),
                (KvType::Int8, bytes::<i8>(&config)),
            ] {
                let expected = 3 * PAGE_TOKENS * kv_type.bytes_per_token(&config);
                assert_eq!(found, expected, "{kv_type} with heads of {head_dim}");
            }
            assert_eq!(KvType::F16.bytes_per_token(&config), config.kv_bytes_per_token());
        }
    }

    #[test]
    fn what_is_written_to_a_page_is_found_there() {
        let config = config();
        let (layer, heads) = (1, config.n_kv_heads);
        // Two blocks of 32 elements, the second short.
        let config = ModelConfig { head_dim: 40, ..config };
        let page_scales = 2 * 2 * PAGE_TOKENS;
        let mut arena: KvArena<i8> = KvArena::new(|len| vec![0; len], 4, &config);
        for (index, layer) in arena.layer_mut([1, 3].map(BlockId).into_iter(), layer).iter_mut().enumerate() {
            for head in 0..heads {
                let mark = (index * heads + head + 1) as i8;
                let PageMut { keys, values, scales } = layer.page(head);
                (keys[0], values[0]) = (mark, -mark);
                scales.fill(mark.into());
            }
        }
        for head in 0..heads {
            let pages = arena.pages(&[1, 3], layer, head);
            let scales = pages.scales.unwrap();
            for (block, index) in [(1, 0), (3, 1)] {
                let mark = (index * heads + head + 1) as i8;
                let page = &pages.data[block * pages.page_stride..];
                assert_eq!((page[pages.k_offset], page[pages.v_offset]), (mark, -mark));
                let scales = &scales.data[block * scales.stride + scales.offset..][..page_scales];
                assert_eq!(scales, vec![f32::from(mark); page_scales]);
            }
        }
        assert_eq!(arena.scales.iter().filter(|scale| **scale != 0.0).count(), 2 * heads * page_scales);
    }

    #[test]
    fn types_are_known_by_their_names() {
        for kv_type in KvType::ALL {
            assert_eq!(KvType::by_name(kv_type.name()), Some(kv_type));
        }
        assert_eq!(KvType::by_name("fp8"), None);
    }

    #[test]
    #[should_panic(expected = "blocks ascend")]
    fn a_block_is_not_lent_twice() {
        let mut arena: KvArena<i8> = KvArena::new(|len| vec![0; len], 4, &config());
        arena.layer_mut([2, 2].map(BlockId).into_iter(), 0);
    }
}
