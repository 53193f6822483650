//! Decides in which orders products of bf16 are added, and how activations in bf16 lie for instructions that read them.

use std::mem::MaybeUninit;

use super::{LANES, MATRIX_ROWS};

/// Bytes of 32 inputs by 16 outputs of bf16: vector `p` (64 bytes) holds for every output its weights of inputs `2·p` and `2·p + 1`.
pub(crate) const BF16_BLOCK: usize = 32 * LANES * 2;

/// In which order products of bf16 with bf16, each of them exact in single precision, are summed: what instructions of their own
/// decide. Where [`Bf16Order::Ascending`] is not the order, subnormal numbers are zero, before and after every operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Order {
    /// `y ← fma(x[k], w[k], y)` for ascending `k`.
    Ascending,
    /// The same, but of inputs `2·p` and `2·p + 1` the second one first (`VDPBF16PS`).
    OddFirst,
    /// `y ← y + (even + odd)` for every 32 inputs, where `even` and `odd` are chains as above over the even and the odd ones, each
    /// from zero (`TDPBF16PS`).
    Blocks,
}

/// What the sums of a matrix unit begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Nothing.
    Zero,
    /// What is where they go.
    There,
}

/// Thirty-two activations of a row as bf16.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Bf16Line(pub(crate) [u16; 32]);

/// Activations of at most [`MATRIX_ROWS`] rows: block after block of 32 inputs, in each a line for every row.
#[derive(Clone, Copy)]
pub struct Bf16Rows<'a> {
    pub(crate) lines: &'a [Bf16Line],
    pub(crate) rows: usize,
}

/// Results of a matrix unit, at most two by two tiles: first the tile of rows, then the panel, then rows of sixteen outputs.
#[repr(C, align(64))]
pub struct Bf16Sums(pub(crate) [[[MaybeUninit<[f32; LANES]>; MATRIX_ROWS]; 2]; 2]);
