//! Models on this machine: what `wharf inspect` says about one, and loading one into an engine.

pub(crate) mod device;
pub(crate) mod inspect;
pub(crate) mod load;
pub(crate) mod memory;
pub(crate) mod shard;
pub(crate) mod text;
