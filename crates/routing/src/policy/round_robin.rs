//! One after the other: every endpoint costs the same, and who was picked longest ago is next.

use super::Candidate;

pub(super) fn cost(_: &Candidate) -> f64 {
    0.0
}
