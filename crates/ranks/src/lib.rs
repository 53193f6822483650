//! A model spread over processes: tensor-parallel ranks, which compute a part of every layer each, and pipelines of stages, which
//! compute some layers each.
//!
//! Rank 0 leads: it has the scheduler and is what the engine sees as one [`Backend`](wharf_engine::Backend). The others compute
//! what it tells them. All of them stand or fall together: who loses another ends with an error that says whom, and nobody waits
//! for a rank that has not been heard of for longer than [`GroupOptions::patience`].

mod assembly;
mod batch;
mod fate;
mod handshake;
mod link;
mod micro;
mod pipeline;
#[cfg(target_os = "linux")]
mod shared;
mod star;
mod tensor;
mod vigil;
mod wire;
mod worker;

use std::time::Duration;

use sha2::{Digest, Sha256};
use wharf_model::Model;

pub use assembly::{AssemblyError, Group, Links, assemble};
pub use fate::{Ending, Fate};
pub use handshake::{Identity, Kind, Setup};
pub use pipeline::PipelineLeader;
#[cfg(target_os = "linux")]
pub use shared::SharedMemory;
pub use tensor::{LeaderTies, TensorLeader};
pub use worker::{Joined, WorkerError, join};

/// Digest of a model, the same for the same weights in any file, whole or cut: ranks that have others do not join.
pub fn model_digest(model: &Model) -> [u8; 32] {
    if let Some(held) = &model.held {
        return held.model;
    }
    let mut digest = Sha256::new();
    digest.update(format!("{:?}", model.config));
    model.weights.sample(&mut |bytes| digest.update(bytes));
    digest.finalize().into()
}

/// How a group keeps together.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// How long ranks wait for each other when they come together. Loading is not part of it.
    pub assembly: Duration,
    /// A rank that has not been heard of for so long is lost.
    pub patience: Duration,
    /// Who does not know it is not let in; empty lets anybody in.
    pub key: String,
}
