//! Where models come from and how they get onto a disk: [`fetch`] brings a source into a folder, [`open`] reads parts of one where it is.
//!
//! One guarded client ([`Settings`] decides whom it may talk to) carries every protocol. What a source consists of is decided by `hub`,
//! `web`, `store`, `oci` and `local`; all of them end in the same list of files that can be read in ranges. `transfer` moves bytes and
//! remembers which have come, `place` decides when files get their names. Nothing here reads the environment or prints.

mod error;
mod fetch;
mod http;
mod hub;
mod journal;
mod local;
mod manifest;
mod names;
mod object;
mod oci;
mod place;
mod policy;
mod progress;
mod remote;
mod resolver;
mod retry;
mod secret;
mod select;
mod settings;
mod store;
mod transfer;
mod unpack;
mod web;
mod zstd;

pub use error::FetchError;
pub use fetch::{Report, Request, fetch};
pub use manifest::{MANIFEST, Manifest, ManifestFile};
pub use names::RelativeName;
pub use policy::{HostPattern, Policy};
pub use progress::{Progress, Snapshot};
pub use remote::{Remote, RemoteFile, open};
pub use retry::Retry;
pub use secret::Secret;
pub use settings::{Env, Settings};

#[cfg(test)]
mod tests;
