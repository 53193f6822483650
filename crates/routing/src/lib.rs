//! Which endpoint a request goes to.
//!
//! This crate decides: it hashes prompts into blocks ([`prefix`]), remembers which endpoint has seen which block ([`index`]), knows what every
//! endpoint has to do ([`endpoint`]) and whether it can be trusted ([`breaker`]), and picks ([`service`]) by one of the policies in [`policy`].
//! It opens no socket, reads no clock and holds no lock: time comes in as an argument, so a test is a table and a simulator ([`simulate`])
//! drives the same code that serves.

pub mod breaker;
pub mod endpoint;
pub mod index;
pub mod policy;
pub mod prefix;
mod recency;
pub mod service;
pub mod simulate;

pub use endpoint::{Endpoint, Load};
pub use policy::{Policy, PolicyName};
pub use prefix::Prompt;
pub use service::{NoEndpoint, Outcome, Pick, Request, Service, Share, Ticket};

/// Time since some moment that stays the same, such as the gateway's start.
pub type Now = std::time::Duration;
