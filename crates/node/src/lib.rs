//! GPUs of a node.
pub mod allocate;
pub mod config;
pub mod gpu;
pub mod health;
pub mod kubelet;
pub mod nvml;
pub mod prefer;
pub mod resources;
#[cfg(test)]
mod testing;
