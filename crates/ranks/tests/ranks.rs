//! Groups of ranks, each rank a thread of this process, over real connections and shared memory.
#![expect(clippy::unwrap_used, reason = "whatever fails in a test's own machinery ends the test")]

#[path = "ranks/assembly.rs"]
mod assembly;
#[path = "ranks/compressed.rs"]
mod compressed;
#[path = "ranks/group.rs"]
mod group;
#[path = "ranks/logits.rs"]
mod logits;
#[path = "ranks/lost.rs"]
mod lost;
