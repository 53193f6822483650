//! From one model to a better one: smaller (quantise, distil) and judged (evaluate).
//!
//! Each command decides on data that it is given (weights, text, statistics) and streams its output to a file that
//! appears only when it is whole.

pub mod distill;
