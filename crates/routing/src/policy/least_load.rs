//! Where the fewest requests are: ours, and those that only the endpoint knows of.

use super::Candidate;

pub(super) fn cost(candidate: &Candidate) -> f64 {
    f64::from(candidate.in_flight) + f64::from(candidate.others)
}
