//! Opens models for commands: the text side of a checkpoint, and what `wharf inspect` says about one.

pub(crate) mod inspect;
pub(crate) mod text;
