//! Decides where a position's keys and values are, and how they are rounded when written.
//!
//! Signed bytes come with a scale for each 32 elements of a key and of a value (the last of a head may be fewer), by the rule of
//! `round`, which is that of activations too. Scales lie in a slice of their own in single precision, sixteen positions side by
//! side, so that sixteen scores or weights are scaled by one multiplication.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt as _;

use super::PAGE_TOKENS;
use super::compiled::Compiled;
use crate::{
    Isa,
    isa::Kernel,
    round::{BLOCK, ByteScale, VECTORS, byte_scale},
    simd::{LANES, Simd, load_part},
};

/// An element type of stored keys and values: `half::f16`, `f32`, or `i8` with scales.
pub trait KvElement: Copy + Default + Send + Sync + lanes::Lanes + Compiled {
    /// Whether elements are multiples of a scale.
    const SCALED: bool;

    /// Scales of a page: of its keys, `[blocks of 32 elements][16]`, then as many of its values. Floats have none.
    fn page_scales(head_dim: usize) -> usize {
        if Self::SCALED { 2 * Self::vector_scales(head_dim) * PAGE_TOKENS } else { 0 }
    }

    /// Scales of a key, and of a value.
    fn vector_scales(head_dim: usize) -> usize {
        if Self::SCALED { head_dim.div_ceil(BLOCK) } else { 0 }
    }
}

impl KvElement for f16 {
    const SCALED: bool = false;
}

impl KvElement for f32 {
    const SCALED: bool = false;
}

impl KvElement for i8 {
    const SCALED: bool = true;
}

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

    impl Lanes for i8 {
        const NARROW: bool = true;

        #[inline(always)]
        fn load<S: Simd>(s: S, from: &[i8; LANES]) -> S::F {
            s.load_i8(from)
        }

        #[inline(always)]
        fn store<S: Simd>(s: S, to: &mut [i8; LANES], x: S::F) {
            s.store_i8(to, x);
        }
    }
}

/// Scales of keys and values that have some.
#[derive(Clone, Copy, Debug)]
pub struct KvScales<'a> {
    /// The arena in which the scales are.
    pub data: &'a [f32],
    /// Elements from the scales of one physical page to those of the next.
    pub stride: usize,
    /// Where among those of a physical page those of the keys begin; those of the values follow.
    pub offset: usize,
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
    /// What keys and values are multiples of; `None` if they are what they say.
    pub scales: Option<KvScales<'a>>,
}

impl<'a, T: KvElement> KvPages<'a, T> {
    #[inline(always)]
    pub(super) fn keys(&self, page: usize) -> &'a [T] {
        self.slice(page, self.k_offset)
    }

    /// Keys of a page, if the table has one.
    #[inline(always)]
    pub(super) fn keys_if_any(&self, page: usize) -> Option<&'a [T]> {
        (page < self.table.len()).then(|| self.keys(page))
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

    /// Scales of a page's keys, of each 32 elements those of sixteen positions; none for types without.
    #[inline(always)]
    pub(super) fn key_scales(&self, page: usize) -> &'a [[f32; PAGE_TOKENS]] {
        self.scales_at(page, 0)
    }

    /// As [`KvPages::key_scales`], of the page's values.
    #[inline(always)]
    pub(super) fn value_scales(&self, page: usize) -> &'a [[f32; PAGE_TOKENS]] {
        self.scales_at(page, 1)
    }

    #[inline(always)]
    fn scales_at(&self, page: usize, half: usize) -> &'a [[f32; PAGE_TOKENS]] {
        // Known where this is compiled: types without scales pay nothing for those with.
        if !T::SCALED {
            return &[];
        }
        let KvScales { data, stride, offset } = self.scales.expect("checked before any page is read");
        let len = T::vector_scales(self.head_dim) * PAGE_TOKENS;
        let at = self.table[page] as usize * stride + offset + half * len;
        data[at..at + len].as_chunks().0
    }
}

/// Copies pages `pages` of the chunk that begins with page `first` into `wide`, in single precision: page `i` of the result
/// is page `first + i`. First all keys, then all values; `in_order` counts up from zero. Scales are not applied: the products
/// are those of the codes, as without widening.
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
        scales: None,
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

/// A page that is written.
pub struct PageMut<'a, T> {
    /// `[head_dim][16]`.
    pub keys: &'a mut [T],
    /// `[16][head_dim]`.
    pub values: &'a mut [T],
    /// As many as [`KvElement::page_scales`].
    pub scales: &'a mut [f32],
}

/// Stores the key and value of position `slot` of a page, rounded to nearest even; `k` and `v`: `head_dim`.
///
/// # Panics
/// When lengths disagree or `slot` is 16 or more.
pub fn write_kv<T: KvElement>(isa: Isa, page: PageMut<'_, T>, slot: usize, k: &[f32], v: &[f32]) {
    let head_dim = k.len();
    assert!(v.len() == head_dim && slot < PAGE_TOKENS, "a key and a value of a slot of a page");
    assert!(
        page.keys.len() == head_dim * PAGE_TOKENS && page.values.len() == head_dim * PAGE_TOKENS,
        "a page of keys and a page of values"
    );
    assert_eq!(page.scales.len(), T::page_scales(head_dim), "scales of a page");
    T::write_kv(isa, page, slot, k, v);
}

/// [`write_kv`] with everything checked.
pub(super) fn write<T: KvElement>(isa: Isa, page: PageMut<'_, T>, slot: usize, k: &[f32], v: &[f32]) {
    isa.run(Write { page, slot, k, v });
}

struct Write<'a, T> {
    page: PageMut<'a, T>,
    slot: usize,
    k: &'a [f32],
    v: &'a [f32],
}

impl<T: KvElement> Kernel for Write<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Write { page: PageMut { keys, values, scales }, slot, k, v } = self;
        let head_dim = v.len();
        let (key_scales, value_scales) = scales.split_at_mut(scales.len() / 2);
        let mut rounded = [T::default(); BLOCK];
        for (block, k) in k.chunks(BLOCK).enumerate() {
            let scale = round(s, k, &mut rounded);
            if T::SCALED {
                key_scales[block * PAGE_TOKENS + slot] = scale;
            }
            let keys = keys[block * BLOCK * PAGE_TOKENS..].chunks_exact_mut(PAGE_TOKENS);
            for (key, keys) in rounded[..k.len()].iter().zip(keys) {
                keys[slot] = *key;
            }
        }
        for (block, v) in v.chunks(BLOCK).enumerate() {
            let scale = round(s, v, &mut rounded);
            if T::SCALED {
                value_scales[block * PAGE_TOKENS + slot] = scale;
            }
            values[slot * head_dim + block * BLOCK..][..v.len()].copy_from_slice(&rounded[..v.len()]);
        }
    }
}

/// At most 32 elements as they are stored, zeros behind them; returns their scale.
#[inline(always)]
fn round<S: Simd, T: KvElement>(s: S, x: &[f32], to: &mut [T; BLOCK]) -> f32 {
    let (low, high) = x.split_at(x.len().min(LANES));
    let x: [S::F; VECTORS] = [load_part(s, low, 0.0), load_part(s, high, 0.0)];
    let to = x.into_iter().zip(to.as_chunks_mut::<LANES>().0);
    if !T::SCALED {
        to.for_each(|(x, to)| T::store(s, to, x));
        return 1.0;
    }
    let ByteScale { scale, inverse } = byte_scale(s, x);
    for (x, to) in to {
        if inverse == 0.0 {
            *to = [T::default(); LANES];
        } else {
            T::store(s, to, s.mul(x, s.splat(inverse)));
        }
    }
    scale
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
