//! Drives the built `wharf` binary against a small fake of an OpenAI server.
#![expect(clippy::unwrap_used, reason = "whatever fails in a test's own machinery ends the test")]

mod bench;
mod chat;
mod fake;
mod wharf;
