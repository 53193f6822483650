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
mod upstream;
mod usage;

pub use config::{ConfigError, GatewayConfig, ServiceConfig};
pub use serve::{Addresses, Gateway, Handle, ServeError};
pub use service::ServiceSpec;
pub use shared::SetupError;

/// The cluster that a process belongs to, or that a kubeconfig names.
pub mod kubernetes {
    /// What a client is.
    pub use kube::Client;

    /// A client of the cluster.
    ///
    /// # Errors
    /// When there is neither a kubeconfig nor a pod's service account, or either is unusable.
    pub async fn connect() -> Result<Client, kube::Error> {
        Client::try_default().await
    }
}
