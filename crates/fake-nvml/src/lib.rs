//! Development only: a `libnvidia-ml.so` whose GPUs are a JSON file beside it.
//!
//! Built as a shared library it answers NVML's functions from a [`Machine`], which it reads again whenever the file has changed: GPUs fall off the
//! bus, throw XIDs, are split by MIG or answer any function with any error while a program runs. What a program sets is written to the same
//! file, so that it survives the program, as it would in a driver. Linked as a Rust library it is how a test gets hold of that file
//! ([`FakeNvml`]). It decides nothing of what Wharf does.

mod control;
mod events;
mod exports;
mod file;
mod machine;

pub use control::FakeNvml;
pub use machine::{Event, Fabric, FakeGpu, Instance, Link, Machine, Mig, Rows, WHOLE_GPU};
