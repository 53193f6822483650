//! Development only: what Wharf talks to, in memory: a Kubernetes API server and model servers.
//!
//! [`engine`] is a model server that computes nothing and fails on demand. [`cluster`] is an API server that keeps objects in
//! memory, [`real`] one that is real where there is one, and [`stage`] either of them for scenarios. [`actors`] do the work of a cluster's controllers and kubelets, through the API only, so that they can do it on a
//! real API server too. Nothing here is meant to be fast, and nothing here decides what Wharf does.

pub mod actors;
pub mod cluster;
pub mod engine;
pub mod front_proxy;
pub mod real;
pub mod stage;
mod wire;
