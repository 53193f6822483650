//! Listening sockets, for everything in Wharf that answers HTTP.
//!
//! This crate decides how connections are accepted and counted, how long a peer may take with TLS and headers, how HTTP/1.1 and HTTP/2 are
//! told apart, when a certificate is read again, and how connections are told to end. What is answered is a hyper service of the caller's.

mod connection;
pub mod grpc;
mod listener;
pub mod side;
mod tls;
mod workers;

pub use connection::{Connections, Limits, PeerCertificate, Refusal};
pub use listener::{BindError, Listener, bind};
pub use tls::{Certificate, Reload, TlsError};
pub use workers::Workers;
