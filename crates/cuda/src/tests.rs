//! Kernels against what they should compute, and whole models against Transformers, on a GPU whose kernels run on the CPU.

mod attention;
#[path = "../examples/gpu/compare.rs"]
#[allow(dead_code, reason = "the example asks more")]
mod compare;
mod memory;
mod models;
mod products;
mod rows;
mod support;
