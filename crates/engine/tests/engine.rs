//! Tests of whole models: logits against Transformers, and the promise of identical bits.
#![expect(clippy::unwrap_used, reason = "whatever fails in a test's own machinery ends the test")]

#[path = "engine/golden.rs"]
mod golden;
#[path = "engine/identical.rs"]
mod identical;
#[path = "engine/shared_prefix.rs"]
mod shared_prefix;
