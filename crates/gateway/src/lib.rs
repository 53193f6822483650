//! One endpoint for all models.
//!
//! This crate moves requests: it reads what a request asks for, checks who asks, gets an endpoint from [`wharf_routing`], passes the answer on,
//! and counts. Which endpoint is best is decided in `wharf_routing`, who may call and how much in `wharf_access`; what services there are comes
//! from discovery or from whoever embeds the gateway ([`Handle`]).

mod answer;
mod caller;
pub mod config;
pub mod console;
pub mod discover;
pub mod epp;
mod events;
mod exchange;
#[doc(hidden)]
pub mod fuzzing;
mod headers;
mod hold;
mod ledger;
mod peers;
mod poll;
mod pool;
mod proxy;
mod relay;
mod request;
mod serve;
mod service;
mod shared;
mod side;
mod spans;
mod table;
mod upload;
mod upstream;
mod usage;

pub use config::{ConfigError, GatewayConfig, ServiceConfig};
pub use serve::{Addresses, Gateway, Handle, ServeError};
pub use service::ServiceSpec;
pub use shared::SetupError;
