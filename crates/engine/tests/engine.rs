//! Tests of whole models: logits against Transformers, and the promise of identical bits.

#[path = "engine/golden.rs"]
mod golden;
#[path = "engine/identical.rs"]
mod identical;
