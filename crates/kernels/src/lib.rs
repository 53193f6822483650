//! Compute on slices: block formats, matrix products, attention and the thread team.
//!
//! This crate decides how numbers are laid out in memory and in which order they are added. It knows
//! nothing of models, files or requests.
//!
//! Invariant: every output element is produced by one fixed sequence of floating-point operations,
//! whatever the number of rows, threads or instruction set. Integer partial sums are exact, every
//! float accumulation is a chain of fused multiply-adds over K in ascending order, so the scalar twin of
//! a kernel returns the same bits as the kernel.

pub mod dtype;

pub use dtype::DType;
