//! Drives the built `wharf` binary: its clients against a small fake of an OpenAI server, its server with a tiny model.
#![expect(clippy::unwrap_used, reason = "whatever fails in a test's own machinery ends the test")]

mod bench;
mod chat;
mod cuda;
mod distill;
mod fake;
mod fetch;
mod gateway;
mod large;
mod manifest;
mod optimize;
mod pack_cache;
mod plan;
mod ranks;
mod serve;
mod up;
mod wharf;
