//! What a cluster should have for each `LLMService` and `Model`, and how it gets there.
//!
//! [`run()`] watches everything that Wharf makes and looks at an object again whenever something of it has changed. A look goes the same way
//! each time: dereference, validate, build, keep the status, apply. What a release does next is decided by `wharf_rollout`, what objects look
//! like by `wharf_manifests`; here they meet a cluster. Every look starts from what there is, so it does not matter which of them were missed,
//! and a look at a cluster that is as it should be writes nothing.
//!
//! Files named `apply`, `status`, `scale` and `lease` write to the cluster; no others do.

mod apply;
mod context;
pub mod doctor;
mod error;
mod events;
mod gateways;
mod jobs;
mod lease;
mod live;
mod made;
mod model;
mod needs;
mod observe;
mod probe;
mod rbac;
mod room;
mod run;
mod scale;
mod scaling;
mod service;
mod side;
mod status;
pub mod steer;
mod trim;
mod users;
mod view;
mod workload;

pub use gateways::{Answers, Gateways, Heard, HttpGateways, NoGateways};
pub use probe::{HttpProbe, Probe};
pub use rbac::cluster_role;
pub use run::{Operator, Options, run};
pub use side::Side;

/// Who owns the fields that Wharf writes.
pub const MANAGER: &str = "wharf";
