//! Tests of whole models: logits against Transformers, the promise of identical bits, and kept packs.
#![expect(clippy::unwrap_used, reason = "whatever fails in a test's own machinery ends the test")]

#[path = "engine/golden.rs"]
mod golden;
#[path = "engine/identical.rs"]
mod identical;
#[path = "engine/pack_cache.rs"]
mod pack_cache;
#[path = "engine/pinning.rs"]
mod pinning;
#[path = "engine/shared_prefix.rs"]
mod shared_prefix;
#[path = "engine/stages.rs"]
mod stages;
