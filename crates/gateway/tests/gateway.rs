//! The gateway over real sockets, between real clients and model servers that fail as they are told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "gateway/access.rs"]
mod access;
#[path = "gateway/chaos.rs"]
mod chaos;
#[path = "gateway/console.rs"]
mod console;
#[path = "gateway/console_access.rs"]
mod console_access;
#[path = "gateway/failures.rs"]
mod failures;
#[path = "gateway/hold.rs"]
mod hold;
#[path = "gateway/memory.rs"]
mod memory;
#[path = "gateway/peers.rs"]
mod peers;
#[path = "gateway/requests.rs"]
mod requests;
#[path = "gateway/side.rs"]
mod side;
#[path = "gateway/streams.rs"]
mod streams;
#[path = "gateway/support.rs"]
mod support;
#[path = "gateway/tokens.rs"]
mod tokens;
#[path = "gateway/tools.rs"]
mod tools;
#[path = "gateway/upload_support.rs"]
mod upload_support;
#[path = "gateway/uploads.rs"]
mod uploads;
