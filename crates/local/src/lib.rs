//! Services on one machine: processes in place of pods.
//!
//! The supervisor reads the same objects that a cluster gets, makes models by the same recipe, and lets the same code decide: how many
//! replicas (`wharf_autoscaler`), which version has traffic (`wharf_rollout`), who answers (`wharf_gateway`). What is decided here is only what a
//! kubelet and a scheduler decide in a cluster: which process starts when, on which CPUs and GPUs, and when it is given up.
//!
//! [`Up`] runs everything, [`run_child`] stands between it and each process, [`order`] asks it from outside.

mod backoff;
mod child;
mod control;
mod converge;
mod division;
mod folder;
mod machine;
mod objects;
mod options;
mod place;
mod prepare;
mod probe;
mod refusal;
mod replica;
mod run_child;
mod scale;
mod service;
mod supervisor;
mod waiting;
mod watch;

pub use control::{ControlError, Order, Reply, RolloutCommand, order};
pub use folder::{Folder, FolderError};
pub use options::{Explanation, Listener, Needs, Objects, Options, Planner, Reader, Room, Written};
pub use place::{Gpu, Machine};
pub use run_child::run_child;
pub use supervisor::{Up, UpError};
pub use watch::Shown;
