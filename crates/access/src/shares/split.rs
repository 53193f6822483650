//! How what is left of a limit is split between gateways; pure.

/// The part of what is left that gateways without demand keep between them, so that their next caller need not wait for a report.
const IDLE_PART: f64 = 0.1;

/// One gateway that takes part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Holder {
    /// Its place in the order of names, which all gateways share.
    pub(crate) rank: usize,
    pub(crate) used: u64,
    pub(crate) held: u64,
    pub(crate) wanted: f64,
    /// The largest request that found no room.
    pub(crate) need: u64,
}

/// What the gateway of this rank has of an amount that is split evenly, to the last unit.
pub(crate) fn fair_part(amount: u64, rank: usize, count: usize) -> u64 {
    let (rank, count) = (rank as u64, count.max(1) as u64);
    amount / count + u64::from(rank < amount % count)
}

/// What `me` may hold from now on, of what `limit` leaves after everybody's uses, `gone` being the uses of those that are there no more.
///
/// What is left is split by demand. Letting go needs nobody's consent; taking is bounded by what nobody holds.
pub(crate) fn hold(limit: u64, gone: u64, me: Holder, others: &[Holder]) -> u64 {
    let all = || std::iter::once(&me).chain(others);
    let sum = |part: fn(&Holder) -> u64| all().fold(0u64, |sum, holder| sum.saturating_add(part(holder)));
    let left = limit.saturating_sub(sum(|h| h.used)).saturating_sub(gone);
    if others.is_empty() {
        return left;
    }
    let targets = targets(left, &me, others);
    let target = targets[0];
    if me.held >= target {
        return target;
    }
    let free = left.saturating_sub(sum(|h| h.held));
    let missing = |holder: &Holder, target: u64| target.saturating_sub(holder.held);
    let all_missing: u128 = all().zip(&targets).map(|(h, &target)| u128::from(missing(h, target))).sum();
    let mine = u128::from(missing(&me, target));
    let part = u128::from(free) * mine / all_missing.max(1);
    me.held + (part.min(mine) as u64)
}

/// What each should hold, `me` first.
///
/// It is dealt in portions of the largest request that waits for room: parts that are too small for any request would be of use to nobody.
fn targets(left: u64, me: &Holder, others: &[Holder]) -> Vec<u64> {
    let all: Vec<&Holder> = std::iter::once(me).chain(others).collect();
    let portion = all.iter().map(|h| h.need).filter(|&need| need <= left).max().unwrap_or(0).max(1);
    let portions = left / portion;
    let n = all.len() as f64;
    let wanted: f64 = all.iter().map(|h| h.wanted).sum();
    let weight = |holder: &Holder| {
        if wanted > 0.0 { IDLE_PART / n + (1.0 - IDLE_PART) * holder.wanted / wanted } else { 1.0 / n }
    };
    let exact: Vec<f64> = all.iter().map(|h| weight(h) * portions as f64).collect();
    let mut dealt: Vec<u64> = exact.iter().map(|e| *e as u64).collect();
    // Portions that the fractions add up to go to the largest fractions; names decide between equals, alike for everybody.
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|&a, &b| {
        let fraction = |i: usize| exact[i].fract();
        fraction(b).total_cmp(&fraction(a)).then(all[a].rank.cmp(&all[b].rank))
    });
    let over = portions.saturating_sub(dealt.iter().sum());
    for &i in order.iter().take(usize::try_from(over).unwrap_or(usize::MAX)) {
        dealt[i] += 1;
    }
    let mut targets: Vec<u64> = dealt.iter().map(|portions| portions * portion).collect();
    if let Some(&first) = order.first() {
        targets[first] += left % portion;
    }
    targets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder(rank: usize, used: u64, held: u64, wanted: f64, need: u64) -> Holder {
        Holder { rank, used, held, wanted, need }
    }

    #[test]
    fn an_even_split_loses_no_unit() {
        assert_eq!((0..3).map(|rank| fair_part(10, rank, 3)).collect::<Vec<_>>(), [4, 3, 3]);
    }

    #[test]
    fn what_nobody_holds_goes_where_the_demand_is() {
        let idle = holder(1, 0, 5, 0.0, 0);
        assert_eq!(hold(100, 0, holder(0, 0, 0, 10.0, 0), &[idle]), 95);
        // What the other holds stays its own until it lets go.
        assert_eq!(hold(100, 0, holder(0, 0, 0, 10.0, 0), &[holder(1, 0, 50, 0.0, 0)]), 50);
        assert_eq!(hold(100, 0, holder(0, 0, 50, 0.0, 0), &[holder(1, 0, 50, 10.0, 0)]), 5);
    }

    #[test]
    fn the_last_unit_has_one_owner() {
        let (a, b) = (holder(0, 1, 0, 4.0, 1), holder(1, 1, 0, 4.0, 1));
        assert_eq!((hold(3, 0, a, &[b]), hold(3, 0, b, &[a])), (1, 0));
    }

    #[test]
    fn a_request_that_is_larger_than_a_fair_part_finds_room() {
        let all: Vec<Holder> = (0..5).map(|rank| holder(rank, 0, 0, 2500.0, 2500)).collect();
        let held: Vec<u64> =
            (0..5).map(|i| hold(10_000, 0, all[i], &[&all[..i], &all[i + 1..]].concat())).collect();
        assert_eq!(held, [2500, 2500, 2500, 2500, 0]);
    }

    fn any_holder() -> impl Strategy<Value = (u64, u64, f64, u64)> {
        (0u64..2000, 0u64..2000, prop_oneof![Just(0.0), 0.0..1e6], 0u64..500)
    }

    proptest! {
        /// From one and the same state, everybody's next step together never holds more than there is, unless more was held before.
        #[test]
        fn together_they_hold_what_is_left(
            limit in 0u64..10_000, gone in 0u64..1000, all in prop::collection::vec(any_holder(), 1..6),
        ) {
            let all: Vec<Holder> =
                all.iter().enumerate().map(|(i, &(u, h, w, n))| holder(i, u, h, w, n)).collect();
            let next: Vec<u64> = (0..all.len())
                .map(|i| hold(limit, gone, all[i], &[&all[..i], &all[i + 1..]].concat()))
                .collect();
            let left = limit.saturating_sub(gone + all.iter().map(|h| h.used).sum::<u64>());
            let before: u64 = all.iter().map(|h| h.held).sum();
            prop_assert!(next.iter().sum::<u64>() <= left.max(before));
            // Twice the same exchange leads to where everything is held.
            let settled: Vec<Holder> = all.iter().zip(&next).map(|(h, &held)| Holder { held, ..*h }).collect();
            let last: u64 = (0..all.len())
                .map(|i| hold(limit, gone, settled[i], &[&settled[..i], &settled[i + 1..]].concat()))
                .sum();
            prop_assert_eq!(last, left);
        }
    }
}
