//! From one model to a better one: smaller (quantise, distil) and judged (evaluate).
//!
//! Each command decides on data that it is given (weights, text, statistics) and streams its output to a file that
//! appears only when it is whole.

pub mod distill;
pub mod eval;
pub mod quantize;

/// A text of our own to judge and calibrate on, where the user gives none: prose, dialogue, code, lists and numbers.
pub const TEXT: &str = include_str!("../text/default.txt");
