//! Opens checked-in and generated checkpoints through the public interface.

mod forward;
mod golden;
mod hostile_files;
