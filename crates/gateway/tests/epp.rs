//! The endpoint picker over real sockets, between a client that speaks ext-proc as Envoy does and fake model servers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "epp/life.rs"]
mod life;
#[path = "epp/pool.rs"]
mod pool;
#[path = "epp/protocol.rs"]
mod protocol;
#[path = "epp/routing.rs"]
mod routing;
#[path = "epp/support.rs"]
mod support;
