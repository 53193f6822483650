//! From a model's weights to smaller ones.

mod blocks;
mod calibrated;
mod codes;
mod disk;
mod journal;
mod mix;
mod plan;
mod report;
mod run;
mod scheme;
mod worker;

pub use calibrated::CalibrationError;
pub use plan::Plan;
pub use report::{Report, TensorReport};
pub use run::{Progress, RunError, RunOptions, Written, run};
pub use scheme::{Calibrates, CompressedScheme, GgufScheme, SCHEMES, Scheme, UnknownScheme};

#[cfg(test)]
mod tests;
