//! Decides where a position's keys and values are, and how they are rounded when written.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt as _;

use super::PAGE_TOKENS;
use crate::{
    Isa,
    isa::Kernel,
    simd::{LANES, Simd, load_part},
};

/// An element type of stored keys and values: `half::f16`, or `f32`.
pub trait KvElement: Copy + Default + Send + Sync + lanes::Lanes {}

impl KvElement for f16 {}
impl KvElement for f32 {}

pub(super) mod lanes {
    //! How sixteen elements become lanes; apart, so that nobody else can make an element type.

    use super::*;

    pub trait Lanes: Sized {
        /// Whether lanes have to be converted when loaded.
        const NARROW: bool;
        fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::F;
        fn store<S: Simd>(s: S, to: &mut [Self; LANES], x: S::F);
    }

    impl Lanes for f16 {
        const NARROW: bool = true;

        #[inline(always)]
        fn load<S: Simd>(s: S, from: &[f16; LANES]) -> S::F {
            s.load_f16(from.reinterpret_cast().first_chunk().expect("as many halves"))
        }

        #[inline(always)]
        fn store<S: Simd>(s: S, to: &mut [f16; LANES], x: S::F) {
            let mut bits = [0; LANES];
            s.store_f16(&mut bits, x);
            *to = bits.map(f16::from_bits);
        }
    }

    impl Lanes for f32 {
        const NARROW: bool = false;

        #[inline(always)]
        fn load<S: Simd>(s: S, from: &[f32; LANES]) -> S::F {
            s.load(from)
        }

        #[inline(always)]
        fn store<S: Simd>(s: S, to: &mut [f32; LANES], x: S::F) {
            s.store(to, x);
        }
    }
}

/// Keys and values of one sequence, for one layer and KV head.
#[derive(Clone, Copy, Debug)]
pub struct KvPages<'a, T> {
    /// The arena in which the pages are.
    pub data: &'a [T],
    /// Physical page of each sixteen positions.
    pub table: &'a [u32],
    /// Elements from one physical page to the next.
    pub page_stride: usize,
    /// Where in a physical page the keys begin: `[head_dim][16]`.
    pub k_offset: usize,
    /// Where in a physical page the values begin: `[16][head_dim]`.
    pub v_offset: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl<'a, T> KvPages<'a, T> {
    #[inline(always)]
    pub(super) fn keys(&self, page: usize) -> &'a [T] {
        self.slice(page, self.k_offset)
    }

    #[inline(always)]
    pub(super) fn values(&self, page: usize) -> &'a [T] {
        self.slice(page, self.v_offset)
    }

    #[inline(always)]
    fn slice(&self, page: usize, offset: usize) -> &'a [T] {
        let first = self.table[page] as usize * self.page_stride + offset;
        &self.data[first..first + self.head_dim * PAGE_TOKENS]
    }
}

/// Copies pages `pages` of the chunk that begins with page `first` into `wide`, in single precision: page `i` of the result
/// is page `first + i`. First all keys, then all values; `in_order` counts up from zero.
pub(super) fn widen<'w, T: KvElement>(
    isa: Isa,
    kv: &KvPages<'_, T>,
    first: usize,
    pages: Range<usize>,
    wide: &'w mut Vec<f32>,
    in_order: &'w [u32],
) -> KvPages<'w, f32> {
    let len = kv.head_dim * PAGE_TOKENS;
    wide.resize(in_order.len() * 2 * len, 0.0);
    let (keys, values) = wide.split_at_mut(in_order.len() * len);
    isa.run(Widen { kv, first, pages, keys, values });
    KvPages {
        data: wide,
        table: in_order,
        page_stride: len,
        k_offset: 0,
        v_offset: in_order.len() * len,
        head_dim: kv.head_dim,
    }
}

struct Widen<'a, T> {
    kv: &'a KvPages<'a, T>,
    first: usize,
    pages: Range<usize>,
    keys: &'a mut [f32],
    values: &'a mut [f32],
}

impl<T: KvElement> Kernel for Widen<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.kv.head_dim * PAGE_TOKENS;
        for page in self.pages {
            for (from, to) in [
                (self.kv.keys(self.first + page), &mut self.keys[page * len..][..len]),
                (self.kv.values(self.first + page), &mut self.values[page * len..][..len]),
            ] {
                for (from, to) in from.as_chunks().0.iter().zip(to.as_chunks_mut().0) {
                    s.store(to, T::load(s, from));
                }
            }
        }
    }
}

/// Stores the key and value of position `slot` of a page, rounded to nearest even.
/// `keys: [head_dim][16]`, `values: [16][head_dim]`, `k` and `v`: `head_dim`.
///
/// # Panics
/// When lengths disagree or `slot` is 16 or more.
pub fn write_kv<T: KvElement>(isa: Isa, keys: &mut [T], values: &mut [T], slot: usize, k: &[f32], v: &[f32]) {
    let head_dim = k.len();
    assert!(v.len() == head_dim && slot < PAGE_TOKENS, "a key and a value of a slot of a page");
    assert!(
        keys.len() == head_dim * PAGE_TOKENS && values.len() == head_dim * PAGE_TOKENS,
        "a page of keys and a page of values"
    );
    isa.run(Write { keys, values: &mut values[slot * head_dim..][..head_dim], slot, k, v });
}

struct Write<'a, T> {
    keys: &'a mut [T],
    values: &'a mut [T],
    slot: usize,
    k: &'a [f32],
    v: &'a [f32],
}

impl<T: KvElement> Kernel for Write<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut rounded = [T::default(); LANES];
        for (k, keys) in self.k.chunks(LANES).zip(self.keys.chunks_mut(LANES * PAGE_TOKENS)) {
            T::store(s, &mut rounded, load_part(s, k, 0.0));
            for (key, page) in rounded.iter().zip(keys.chunks_exact_mut(PAGE_TOKENS)) {
                page[self.slot] = *key;
            }
        }
        for (v, values) in self.v.chunks(LANES).zip(self.values.chunks_mut(LANES)) {
            T::store(s, &mut rounded, load_part(s, v, 0.0));
            values.copy_from_slice(&rounded[..values.len()]);
        }
    }
}

/// Up to sixteen elements as lanes; the missing ones are zero.
#[inline(always)]
pub(super) fn load<S: Simd, T: KvElement>(s: S, from: &[T]) -> S::F {
    if let Some(full) = from.first_chunk() {
        return T::load(s, full);
    }
    let mut lanes = [T::default(); LANES];
    lanes[..from.len()].copy_from_slice(from);
    T::load(s, &lanes)
}
