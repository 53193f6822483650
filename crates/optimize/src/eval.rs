//! How good a model is on a text, alone and beside the model that it was made from.

mod compare;
mod page;
mod report;
mod score;
mod stats;
mod windows;

pub use report::{Comparison, EvalReport, Judged, Metrics};
pub use score::{EvalError, Judge, Progress, evaluate};
pub use stats::Estimate;
pub use windows::{TooShort, Windows};
