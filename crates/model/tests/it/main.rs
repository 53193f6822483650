//! Opens checked-in and generated checkpoints through the public interface.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod forward;
mod golden;
mod hostile_files;
mod repeated;
