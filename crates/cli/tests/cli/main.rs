//! Drives the built `wharf` binary against a small fake of an OpenAI server.

mod bench;
mod chat;
mod fake;
mod wharf;
