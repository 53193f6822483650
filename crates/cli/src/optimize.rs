//! Commands that make models smaller and judge them. What is done to weights is decided in `wharf_optimize`; here it is decided
//! what the commands accept, and what is shown while they work.

pub(crate) mod eval;
mod gate;
mod judge;
pub(crate) mod quantize;
