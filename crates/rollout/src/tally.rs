//! Counting what a version did in a period, from counters of gateways that come, go and start again.
//!
//! Nothing is ever counted that may have happened before the period: a gateway that is seen for the first time, or whose counters went back in
//! one life, only begins to count. A gateway that started again has counters from zero, so all of them count.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wharf_api::demand::VersionCounts;
use wharf_spec::service::Colour;

use crate::observed::GatewaySeen;

/// What was counted in a period.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tally {
    /// All gateways together, since the period began.
    pub sum: VersionCounts,
    /// Counters of each gateway, as last seen.
    pub gateways: BTreeMap<String, Look>,
}

/// A gateway's counters at one look.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Look {
    /// The life of the gateway that they belong to.
    pub epoch: u64,
    /// The counters.
    pub counts: VersionCounts,
}

impl Tally {
    /// A period begins.
    pub fn begin(gateways: &[GatewaySeen], colour: Colour) -> Tally {
        let mut tally = Tally::default();
        tally.look(gateways, colour);
        tally
    }

    /// Counts what happened since the last look.
    pub fn look(&mut self, gateways: &[GatewaySeen], colour: Colour) {
        for gateway in gateways {
            let now = gateway.counts.get(&colour).cloned().unwrap_or_default();
            let more = match self.gateways.get(&gateway.name) {
                None => None,
                // A report of an earlier life came late.
                Some(last) if last.epoch > gateway.epoch => continue,
                Some(last) if last.epoch == gateway.epoch => difference(&now, &last.counts),
                Some(_) => Some(now.clone()),
            };
            if let Some(more) = more {
                add(&mut self.sum, &more);
            }
            self.gateways.insert(gateway.name.clone(), Look { epoch: gateway.epoch, counts: now });
        }
    }
}

/// What came on top; none if anything went back.
fn difference(now: &VersionCounts, last: &VersionCounts) -> Option<VersionCounts> {
    let at = |counts: &[u64], index: usize| counts.get(index).copied().unwrap_or(0);
    let buckets = now.first_token.len().max(last.first_token.len());
    Some(VersionCounts {
        answered: now.answered.checked_sub(last.answered)?,
        failed: now.failed.checked_sub(last.failed)?,
        first_token: (0..buckets)
            .map(|i| at(&now.first_token, i).checked_sub(at(&last.first_token, i)))
            .collect::<Option<_>>()?,
    })
}

fn add(sum: &mut VersionCounts, more: &VersionCounts) {
    sum.answered = sum.answered.saturating_add(more.answered);
    sum.failed = sum.failed.saturating_add(more.failed);
    // No longer than it has to be: a state is written often.
    let last = more.first_token.iter().rposition(|n| *n > 0).map_or(0, |last| last + 1);
    if sum.first_token.len() < last {
        sum.first_token.resize(last, 0);
    }
    for (sum, more) in sum.first_token.iter_mut().zip(&more.first_token) {
        *sum = sum.saturating_add(*more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(name: &str, epoch: u64, answered: u64, failed: u64) -> GatewaySeen {
        let counts = VersionCounts { answered, failed, first_token: vec![answered] };
        GatewaySeen { name: name.into(), epoch, traffic: vec![], counts: [(Colour::Green, counts)].into() }
    }

    fn counted(looks: &[&[GatewaySeen]]) -> (u64, u64) {
        let mut tally = Tally::begin(looks[0], Colour::Green);
        for gateways in &looks[1..] {
            tally.look(gateways, Colour::Green);
        }
        (tally.sum.answered, tally.sum.failed)
    }

    #[test]
    fn only_what_happened_in_the_period_counts() {
        assert_eq!(counted(&[&[gateway("a", 1, 100, 50)], &[gateway("a", 1, 104, 51)]]), (4, 1));
        assert_eq!(counted(&[&[gateway("a", 1, 100, 50)], &[gateway("a", 1, 100, 50)]]), (0, 0));
    }

    #[test]
    fn a_gateway_that_started_again_counts_from_zero() {
        let looks = [gateway("a", 1, 100, 50), gateway("a", 1, 110, 50), gateway("a", 2, 3, 1)].map(|g| [g]);
        assert_eq!(counted(&[&looks[0], &looks[1], &looks[2]]), (13, 1));
    }

    #[test]
    fn a_late_report_of_an_earlier_life_counts_for_nothing() {
        let looks = [gateway("a", 2, 1, 0), gateway("a", 1, 100, 50), gateway("a", 2, 3, 0)].map(|g| [g]);
        assert_eq!(counted(&[&looks[0], &looks[1], &looks[2]]), (2, 0));
    }

    #[test]
    fn a_gateway_that_was_not_seen_before_brings_no_past() {
        let looks: [&[GatewaySeen]; 4] = [
            &[gateway("a", 1, 10, 0)],
            &[gateway("a", 1, 12, 0), gateway("b", 1, 900, 900)],
            &[gateway("b", 1, 901, 900)],
            &[gateway("a", 1, 13, 0), gateway("b", 1, 901, 900)],
        ];
        assert_eq!(counted(&looks), (4, 0));
    }

    #[test]
    fn counters_that_go_back_in_one_life_only_begin_again() {
        let looks = [gateway("a", 1, 100, 50), gateway("a", 1, 110, 5), gateway("a", 1, 111, 5)].map(|g| [g]);
        assert_eq!(counted(&[&looks[0], &looks[1], &looks[2]]), (1, 0));
    }
}
