//! Kernels against what they should compute, and whole models against Transformers, on a GPU whose kernels run on the CPU.

mod attention;
mod models;
mod products;
mod rows;
mod support;
