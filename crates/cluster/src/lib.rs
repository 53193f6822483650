//! What every part of Wharf that works on a cluster shares: kinds of objects kept by watches ([`follow()`], [`keep()`]), where pods listen ([`address`])
//! and what their metrics say ([`MetricsReader`]), and what gateways are asked for ([`DemandStreams`]).
//!
//! It decides how the cluster is read, and never writes to it.

mod address;
mod demand;
mod follow;
mod packed;
mod scrape;

pub use address::{Find, address, addresses};
pub use demand::DemandStreams;
pub use follow::{Changed, Object, Watched, api, follow, keep, reference};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, ObjectList};

pub use kube::Client;
pub use packed::Packed;
pub use scrape::MetricsReader;

/// A client of the cluster that the process belongs to, or that a kubeconfig names.
///
/// # Errors
/// When there is neither a kubeconfig nor a pod's service account, or either is unusable.
pub async fn connect() -> Result<Client, kube::Error> {
    Client::try_default().await
}

/// All nodes of the cluster, as they are now.
///
/// # Errors
/// When the API server does not answer, or does not let us list nodes.
pub async fn nodes(client: &Client) -> Result<ObjectList<Node>, kube::Error> {
    Api::all(client.clone()).list(&ListParams::default()).await
}
