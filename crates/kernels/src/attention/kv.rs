//! Decides where a position's keys and values are, and how they are rounded when written.

use half::f16;

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
        fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::F;
        fn store<S: Simd>(s: S, to: &mut [Self; LANES], x: S::F);
    }

    impl Lanes for f16 {
        #[inline(always)]
        fn load<S: Simd>(s: S, from: &[f16; LANES]) -> S::F {
            s.load_f16(&from.map(f16::to_bits))
        }

        #[inline(always)]
        fn store<S: Simd>(s: S, to: &mut [f16; LANES], x: S::F) {
            let mut bits = [0; LANES];
            s.store_f16(&mut bits, x);
            *to = bits.map(f16::from_bits);
        }
    }

    impl Lanes for f32 {
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
