//! From a model's weights to smaller ones.

mod blocks;
mod codes;
mod importance;
mod journal;
mod mix;
mod plan;
mod report;
mod run;
mod scheme;
mod worker;

pub use importance::Importance;
pub use plan::Plan;
pub use report::{Report, TensorReport};
pub use run::{Progress, RunError, RunOptions, Written, run};
pub use scheme::{CompressedScheme, GgufScheme, SCHEMES, Scheme, UnknownScheme};

#[cfg(test)]
mod tests;
