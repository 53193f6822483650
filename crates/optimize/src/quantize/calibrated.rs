//! Decides what a text tells of a model's matrices, and what follows from it for how they are rounded.
//!
//! Layer after layer: the text runs through it, what its matrices read is gathered ([`inputs`]), a treatment is decided
//! ([`treatment`]: scalings, factors, ranges), and its matrices are rounded, before the next layer is loaded. Memory is that of one layer,
//! of its treatment, and of a row of activations for each token of the text, however large the model is.

mod dots;
mod gptq;
mod inputs;
mod layers;
mod smoothing;
mod treatment;

pub use layers::CalibrationError;
pub(super) use layers::{Gather, Step, each_layer};
pub(super) use treatment::{Method, Treatment};
