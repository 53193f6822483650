//! The objects that users write: `LLMService` and `Model`, their defaults, and what is wrong with them.
//!
//! The CRDs of the cluster and the YAML of one machine are these same types. This crate decides what an object may say; what
//! follows from it is decided in `manifests`. It reads no files and calls nobody.

pub mod check;
pub mod crd;
pub mod engine;
pub mod job;
pub mod model;
pub mod reference;
pub mod scalar;
pub mod service;

pub use check::{Document, Object, Problem, Severity, check};
pub use model::{Model, ModelSpec};
pub use service::{LLMService, LLMServiceSpec};

/// Group of our kinds.
pub const GROUP: &str = "wharf.dev";
/// `apiVersion` of our kinds.
pub const API_VERSION: &str = "wharf.dev/v1alpha1";
