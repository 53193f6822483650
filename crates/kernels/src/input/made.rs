//! Decides what rows are taken over when others may hold the rest of each, and what of it those have to be told.

use super::ROW_GRAIN;
use crate::{Isa, Team, isa::Kernel, simd::Simd};

/// Rows that somebody computes.
#[derive(Clone, Copy)]
pub struct Made<'a> {
    /// How many.
    pub rows: usize,
    /// Activations of each.
    pub k: usize,
    /// `make(row, to)` computes one.
    pub make: &'a (dyn Fn(usize, &mut [f32]) + Sync),
    /// The largest magnitude of each row where others hold the rest of it and [`whole_rows`](super::InputKind::whole_rows) is true;
    /// empty where these are all of the rows.
    pub largest: &'a [f32],
}

impl Made<'_> {
    /// The largest magnitude of each row, of these activations alone. What is no number is none.
    ///
    /// # Panics
    /// When rows are not whole blocks of 32.
    pub fn largest(&self, isa: Isa, team: &Team) -> Vec<f32> {
        assert!(self.k.is_multiple_of(32), "rows that are rounded are whole blocks");
        let mut found = vec![0.0; self.rows];
        let mut scratch = vec![vec![0.0; self.k]; team.threads()];
        team.for_each_chunk_with(&mut scratch, &mut found, 1, ROW_GRAIN, &|scratch, row, found| {
            (self.make)(row, scratch);
            found[0] = isa.run(Largest(scratch.as_chunks().0));
        });
        found
    }
}

/// The largest magnitude of a row.
struct Largest<'a>(&'a [[f32; 32]]);

impl Kernel for Largest<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        largest_of(s, self.0)
    }
}

/// The largest magnitude of a row, found by folding in one fixed order.
#[inline(always)]
pub(super) fn largest_of<S: Simd>(s: S, x: &[[f32; 32]]) -> f32 {
    let mut most = s.splat(0.0);
    for half in x.as_flattened().as_chunks::<16>().0 {
        most = s.max(s.abs(s.load(half)), most);
    }
    s.largest(most)
}
