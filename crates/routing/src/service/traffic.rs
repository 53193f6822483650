//! How traffic is shared between versions.
//!
//! A session stays with its version: its hash is a point on a line that the versions divide by their weights, in the order of their names,
//! so that a growing share only takes sessions over and never swaps them. Requests without a session are dealt out evenly (smooth weighted
//! round robin, as nginx does it): of any run of requests each version has its share to within one.

use serde::{Deserialize, Serialize};

/// A version's share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The version.
    pub colour: String,
    /// Its share; only the proportion matters.
    pub weight: u32,
}

#[derive(Debug, Default)]
pub(super) struct Shares(Vec<(Share, i64)>);

impl Shares {
    pub(super) fn set(&mut self, shares: &[Share]) {
        let same =
            self.0.len() == shares.len() && self.0.iter().zip(shares).all(|((old, _), new)| old == new);
        if !same {
            let mut shares: Vec<Share> = shares.to_vec();
            shares.sort_by(|a, b| a.colour.cmp(&b.colour));
            self.0 = shares.into_iter().map(|share| (share, 0)).collect();
        }
    }

    /// The version that a request should go to, among those that `can` take it; `None` when nothing is said about any of them.
    pub(super) fn choose(&mut self, session: Option<u64>, can: impl Fn(&str) -> bool) -> Option<&str> {
        let total: u64 = self.possible(&can).map(|(_, weight)| weight).sum();
        if total == 0 {
            return None;
        }
        let chosen = match session {
            Some(session) => {
                // The upper bits, scaled: no modulo, so that the line does not move when the total changes.
                let mut point = (u128::from(session) * u128::from(total)) >> 64;
                self.possible(&can).find_map(|(position, weight)| {
                    let here = point < u128::from(weight);
                    point = point.saturating_sub(u128::from(weight));
                    here.then_some(position)
                })?
            }
            None => {
                let possible: Vec<(usize, u64)> = self.possible(&can).collect();
                for &(position, weight) in &possible {
                    self.0[position].1 += weight as i64;
                }
                let (best, _) = *possible
                    .iter()
                    .max_by_key(|(position, _)| (self.0[*position].1, usize::MAX - position))?;
                self.0[best].1 -= total as i64;
                best
            }
        };
        Some(&self.0[chosen].0.colour)
    }

    fn possible(&self, can: &impl Fn(&str) -> bool) -> impl Iterator<Item = (usize, u64)> {
        self.0
            .iter()
            .enumerate()
            .filter(|(_, (share, _))| share.weight > 0 && can(&share.colour))
            .map(|(position, (share, _))| (position, u64::from(share.weight)))
    }
}
