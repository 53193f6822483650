//! Decides which positions a query sees, and in which chunks and pages they are.

use std::ops::Range;

use super::{CHUNK, PAGE_TOKENS};

/// Consecutive query positions of one sequence, for the query heads that share one KV head.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// `(positions, group, head_dim)`, scaled by `1/√head_dim` or whatever the model says.
    pub q: &'a [f32],
    /// Query heads that share the KV head.
    pub group: usize,
    /// Absolute position of the first query; a query sees positions up to and including its own.
    pub first: usize,
    /// How many positions back a query sees, its own included; `usize::MAX` for all.
    pub window: usize,
    /// Scores become `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
}

impl<'a> Queries<'a> {
    /// Rows that all see the whole of chunk `chunk`, whatever their positions and sequences: their results over it are those
    /// of query heads at its last position. `q: (rows, head_dim)`.
    pub fn of_chunk(q: &'a [f32], head_dim: usize, chunk: usize, softcap: Option<f32>) -> Queries<'a> {
        let (group, first) = (q.len() / head_dim, (chunk + 1) * CHUNK - 1);
        Queries { q, group, first, window: usize::MAX, softcap }
    }

    /// Rows of `q`: positions times group.
    pub fn rows(&self, head_dim: usize) -> usize {
        self.q.len() / head_dim
    }

    /// The chunks that any of the queries sees: `first..end`.
    pub fn chunks(&self, head_dim: usize) -> Range<usize> {
        match self.rows(head_dim) / self.group {
            0 => 0..0,
            positions => {
                let last = self.first + positions - 1;
                (self.first + 1).saturating_sub(self.window) / CHUNK..last / CHUNK + 1
            }
        }
    }

    /// Pages of chunk `chunk`, counted from its start, that any of the queries sees.
    pub(super) fn pages(&self, head_dim: usize, chunk: usize) -> Range<usize> {
        let (first, last) = (self.seen(0, chunk), self.seen(self.rows(head_dim) - 1, chunk));
        first.start / PAGE_TOKENS..last.end.div_ceil(PAGE_TOKENS)
    }

    /// Positions that row `row` sees in chunk `chunk`, counted from the chunk's start.
    pub(super) fn seen(&self, row: usize, chunk: usize) -> Range<usize> {
        let position = self.first + row / self.group;
        let base = chunk * CHUNK;
        let start = (position + 1).saturating_sub(self.window).clamp(base, base + CHUNK);
        let end = (position + 1).clamp(start, base + CHUNK);
        start - base..end - base
    }
}
