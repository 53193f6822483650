//! Compute on slices: block formats, matrix products, attention and the thread team.
//!
//! This crate decides how numbers are laid out in memory and in which order they are added. It knows
//! nothing of models, files or requests.
//!
//! Invariant: every output element is produced by one fixed sequence of floating-point operations,
//! whatever the number of rows or threads, and on every instruction set the same but for products of BF16
//! weights, whose order of additions belongs to the instruction set. Integer partial sums are exact, every
//! other float accumulation is a chain of fused multiply-adds over K in ascending order, so the scalar twin
//! of a kernel returns the same bits as the kernel.
//!
//! Every algorithm is written once, over sixteen lanes, and compiled once per instruction set; an
//! instruction set only says how sixteen lanes are held and multiplied.

pub mod attention;
pub mod block;
pub mod cpus;
pub mod dtype;
pub mod input;
pub mod isa;
mod math;
pub mod matmul;
pub mod matrix;
pub mod ops;
pub mod probe;
mod round;
mod simd;
pub mod team;

pub use dtype::DType;
pub use input::{Input, InputKind, Made, Rounding};
pub use isa::Isa;
pub use matmul::{Results, Store, matmul, matmul_gated, matmul_outputs};
pub use matrix::{PACK_LAYOUT, PANEL, PackError, PackedMatrix, Part, SharedBytes};
pub use team::Team;
