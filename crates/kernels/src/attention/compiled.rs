//! What is compiled in this crate for each type of elements: a crate that calls generic functions compiles them itself, and these
//! take minutes.

use half::f16;

use super::kv::{self, PageMut};
use super::tile::Attend;
use super::{IN_ORDER, KvElement, KvPages, PAGES, Queries, Scratch, WIDEN_ROWS};
use crate::Isa;

/// Not generic, so that callers link to it. Only the types of elements have it.
pub trait Compiled: Sized {
    fn attend_chunk(
        isa: Isa,
        kv: &KvPages<'_, Self>,
        queries: &Queries<'_>,
        chunk: usize,
        scratch: &mut Scratch,
        partial: &mut [f32],
    );

    fn write_kv(isa: Isa, page: PageMut<'_, Self>, slot: usize, k: &[f32], v: &[f32]);
}

macro_rules! compiled {
    ($($element:ty),*) => {$(
        impl Compiled for $element {
            fn attend_chunk(
                isa: Isa,
                kv: &KvPages<'_, Self>,
                queries: &Queries<'_>,
                chunk: usize,
                scratch: &mut Scratch,
                partial: &mut [f32],
            ) {
                attend_chunk(isa, kv, queries, chunk, scratch, partial);
            }

            fn write_kv(isa: Isa, page: PageMut<'_, Self>, slot: usize, k: &[f32], v: &[f32]) {
                kv::write(isa, page, slot, k, v);
            }
        }
    )*};
}

compiled!(f16, f32, i8);

fn attend_chunk<T: KvElement>(
    isa: Isa,
    kv: &KvPages<'_, T>,
    queries: &Queries<'_>,
    chunk: usize,
    scratch: &mut Scratch,
    partial: &mut [f32],
) {
    let Scratch { scores, wide, .. } = scratch;
    if T::NARROW && queries.rows(kv.head_dim) >= WIDEN_ROWS {
        let pages = kv::widen(isa, kv, chunk * PAGES, queries.pages(kv.head_dim, chunk), wide, &IN_ORDER);
        let wide = Some(&pages.data[pages.v_offset..]);
        isa.run(Attend { kv, pages: &pages, first_page: 0, wide, queries, chunk, scores, partial });
    } else {
        let first_page = chunk * PAGES;
        isa.run(Attend { kv, pages: kv, first_page, wide: None, queries, chunk, scores, partial });
    }
}
