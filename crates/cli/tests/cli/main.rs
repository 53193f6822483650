//! Drives the built `wharf` binary: its clients against a small fake of an OpenAI server, its server with a tiny model.

mod bench;
mod chat;
mod fake;
mod serve;
mod wharf;
