//! What the program tells its operators: logs, metrics, traces, and which build it is.
//!
//! This crate decides formats and names. Values are measured where they arise; prompts and answers are never
//! logged by any role.

pub mod build;
pub mod engines;
pub mod exposition;
pub mod log;
pub mod metrics;
pub mod trace;
