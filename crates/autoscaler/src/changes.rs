//! How fast replicas may come and go, after what came and went lately (`behavior` of `autoscaling/v2`).

use std::collections::VecDeque;
use std::time::Duration;

use crate::policy::{Amount, Rules, Select};

/// What came and went, for as long as some limit looks back.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Changes {
    entries: VecDeque<(Duration, i64)>,
}

impl Changes {
    /// Remembers a change, and forgets what neither rule looks back to.
    pub(crate) fn push(&mut self, at: Duration, by: i64, rules: [&Rules; 2]) {
        if by != 0 {
            self.entries.push_back((at, by));
        }
        let longest = rules.iter().flat_map(|r| &r.limits).map(|l| l.every).max().unwrap_or_default();
        while self.entries.front().is_some_and(|(t, _)| *t + longest <= at) {
            self.entries.pop_front();
        }
    }

    /// How many replicas there were before the changes of the last `every`.
    fn before(&self, at: Duration, every: Duration, current: u32) -> i64 {
        let recent = self.entries.iter().filter(|(t, _)| *t + every > at).map(|(_, by)| by).sum::<i64>();
        i64::from(current) - recent
    }

    /// Most replicas that there may be now.
    pub(crate) fn most(&self, at: Duration, current: u32, rules: &Rules) -> u32 {
        let limits = rules.limits.iter().map(|limit| {
            let before = self.before(at, limit.every, current).max(0);
            match limit.most {
                Amount::Replicas(n) => before + i64::from(n),
                // Whole numbers: a share is rounded up, so a single replica can grow.
                Amount::Percent(p) => {
                    (before * (100 + i64::from(p))).div_euclid(100)
                        + i64::from(before * i64::from(p) % 100 > 0)
                }
            }
        });
        let allowed = match rules.select {
            Select::Disabled => return current,
            Select::Max => limits.max(),
            Select::Min => limits.min(),
        };
        // No share of nothing is one: waking must be possible under any limit.
        let least = current.max(1);
        allowed.map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX).max(least))
    }

    /// Fewest replicas that there may be now.
    pub(crate) fn fewest(&self, at: Duration, current: u32, rules: &Rules) -> u32 {
        let limits = rules.limits.iter().map(|limit| {
            let before = self.before(at, limit.every, current);
            match limit.most {
                Amount::Replicas(n) => before - i64::from(n),
                Amount::Percent(p) => before * (100 - i64::from(p.min(100))) / 100,
            }
        });
        let allowed = match rules.select {
            Select::Disabled => return current,
            Select::Max => limits.min(),
            Select::Min => limits.max(),
        };
        allowed.map_or(0, |n| u32::try_from(n.max(0)).unwrap_or(u32::MAX).min(current))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Limit;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn rules(select: Select, limits: &[(Amount, u64)]) -> Rules {
        let limits = limits.iter().map(|&(most, every)| Limit { most, every: S(every) }).collect();
        Rules { stabilization: Duration::ZERO, select, limits, tolerance: None }
    }

    #[test]
    fn the_default_doubles_or_adds_four_in_fifteen_seconds() {
        let (none, up) = (Changes::default(), Rules::up());
        assert_eq!([1, 3, 4, 10].map(|n| none.most(S(0), n, &up)), [5, 7, 8, 20]);
        let mut some = Changes::default();
        some.push(S(0), 4, [&up, &Rules::down()]);
        // Four came within the last 15 s: there was one before.
        assert_eq!(some.most(S(10), 5, &up), 5);
        assert_eq!(some.most(S(15), 5, &up), 10);
    }

    #[test]
    fn limits_are_selected_as_documented() {
        let limits = [(Amount::Percent(50), 60), (Amount::Replicas(2), 60)];
        let most = |select| Changes::default().most(S(0), 10, &rules(select, &limits));
        let fewest = |select| Changes::default().fewest(S(0), 10, &rules(select, &limits));
        assert_eq!([Select::Max, Select::Min, Select::Disabled].map(most), [15, 12, 10]);
        assert_eq!([Select::Max, Select::Min, Select::Disabled].map(fewest), [5, 8, 10]);
    }

    #[test]
    fn nothing_can_wake_under_any_limit_and_no_limit_is_none() {
        let none = Changes::default();
        assert_eq!(none.most(S(0), 0, &rules(Select::Min, &[(Amount::Percent(10), 60)])), 1);
        assert_eq!(none.most(S(0), 0, &rules(Select::Max, &[])), u32::MAX);
        assert_eq!(none.fewest(S(0), 7, &rules(Select::Max, &[])), 0);
    }

    #[test]
    fn what_no_limit_looks_back_to_is_forgotten() {
        let mut changes = Changes::default();
        for i in 0..1000 {
            changes.push(S(i), 1, [&Rules::up(), &Rules::down()]);
        }
        assert_eq!(changes.entries.len(), 15);
    }
}
