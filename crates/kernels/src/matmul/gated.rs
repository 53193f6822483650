//! Decides how the two halves of a gated feed-forward layer become one product: a panel of the gate, its panel of the other
//! half, and the activation of both while they are in the cache. Neither half is ever in memory as a whole.
#![expect(unsafe_code, reason = "threads write disjoint columns of one output")]

use std::{cell::RefCell, marker::PhantomData};

use super::{Claim, Output, Piece, Store, for_each_piece, multiply};
use crate::{Input, Isa, PackedMatrix, Team, input::MOST_CHUNK_ROWS, simd::LANES};

thread_local! {
    /// The gate, the other half and the activation of both: a claim is too little work to clear them for.
    static RESULTS: RefCell<[[f32; ROOM]; 3]> = const { RefCell::new([[0.0; ROOM]; 3]) };
}

/// Sixteen outputs of as many rows as a claim has.
const ROOM: usize = MOST_CHUNK_ROWS * LANES;

/// `act(isa, gate, up, out)`, a function of [`ops`](crate::ops) such as `silu_mul`.
pub type Act = fn(Isa, &[f32], &[f32], &mut [f32]);

/// `y[r][n] = act(gate[r][n], up[r][n])`, where `w` is the gate's outputs and then as many of the other half:
/// `y[r · stride + n]` is written for `n < w.n() / 2`.
///
/// # Panics
/// When `w` is not two parts of as many outputs, `x` is not as wide as `w` or lacks a form that it reads, or `y` is too short.
pub fn matmul_gated(
    isa: Isa,
    team: &Team,
    x: &Input,
    w: &PackedMatrix,
    act: Act,
    y: &mut [f32],
    stride: usize,
) {
    let (rows, n, panels) = (x.rows(), w.n() / 2, w.panels() / 2);
    assert!(w.halves(), "a gate and as many outputs of the other half");
    if rows == 0 || n == 0 {
        return;
    }
    assert!(stride >= n && y.len() >= (rows - 1) * stride + n, "room for the result");
    let out = Output { start: y.as_mut_ptr(), stride, first: [0; 2], store: Store::Set, rows: PhantomData };
    for_each_piece(isa, team, x, w, 0..panels, w.bytes(), &|piece| {
        RESULTS.with_borrow_mut(|results| compute(isa, x, w, act, piece, out, results));
    });
}

/// Computes a piece of the gate's panels with those of the other half; `results` has room for sixteen outputs of every row.
fn compute(
    isa: Isa,
    x: &Input,
    w: &PackedMatrix,
    act: Act,
    piece: Piece,
    mut out: Output<'_>,
    results: &mut [[f32; ROOM]; 3],
) {
    let Piece { rows, panels: gates, many } = piece;
    let (half, last) = (w.panels() / 2, w.n() / 2);
    // As many panels at once as there is room for: a kernel is set up once for all of them.
    let group = (ROOM / LANES / rows.len()).max(1);
    for panel in gates.clone().step_by(group) {
        let panels = panel..gates.end.min(panel + group);
        let stride = panels.len() * LANES;
        let [gate, up, acted] = results.each_mut().map(|results| &mut results[..rows.len() * stride]);
        for (panels, to) in [(panels.clone(), &mut *gate), (panel + half..panels.end + half, &mut *up)] {
            let first = [rows.start, w.panel(panels.start).first];
            let start = to.as_mut_ptr();
            let to = Output { start, stride, first, store: Store::Set, rows: PhantomData };
            // SAFETY: `to` has sixteen outputs of each panel for every row and is this thread's.
            multiply(isa, many, unsafe { Claim::new(x, w, rows.clone(), panels, to) });
        }
        act(isa, gate, up, acted);
        let first = panel * LANES;
        for (row, acted) in rows.clone().zip(acted.chunks_exact(stride)) {
            // SAFETY: no two pieces share both rows and panels.
            let to = unsafe { out.row(row, first, stride.min(last - first)) };
            // Sixteen at a time are two instructions; any number of them is a call.
            let (chunks, rest) = to.as_chunks_mut::<LANES>();
            let (acted, acted_rest) = acted.split_at(chunks.as_flattened().len());
            chunks.iter_mut().zip(acted.as_chunks().0).for_each(|(to, acted)| *to = *acted);
            rest.copy_from_slice(&acted_rest[..rest.len()]);
        }
    }
}
