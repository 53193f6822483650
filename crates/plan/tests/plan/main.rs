//! Plans from headers: against published figures, and from checkpoints of which only headers may be read.
#![expect(clippy::unwrap_used, reason = "whatever fails in a test's own machinery ends the test")]

mod advice;
mod files;
mod headers;
mod models;
mod placement;
mod published;
mod shortage;
