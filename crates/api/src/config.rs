//! The one configuration of a model server: fields, defaults, sources and their precedence.
//!
//! A field's doc comment, type and default are written once, in `fields`; the struct, the check of user files, the
//! environment's names and the reference page follow from there. Precedence: flags, then environment, then
//! files, then defaults.

mod check;
mod fields;
mod reference;
mod resolve;
mod types;

pub use fields::{FIELDS, Field, Section, ServeConfig};
pub use reference::reference_page;
pub use resolve::{ConfigFiles, ConfigProblem, PartialConfig, ReadConfigError, Source, SourceFile, resolve};
pub use types::{ByteSize, CpuPinning, Device, KvCacheDtype, LogFormat, Secret, Speculation};

#[cfg(test)]
mod tests;
