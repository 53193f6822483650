//! How a limit is split between gateways; pure.
//!
//! A gateway's part is what it used and what it holds. Parts follow demand. What a gateway used returns to what it holds when it ceases to
//! count, so while demand stays as it is nothing changes hands and reports may be as late as they like.

/// The part of a limit that gateways without demand keep between them, so that their next caller need not wait for a report.
const IDLE_PART: f64 = 0.04;

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

/// What one gateway may hold from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) mine: u64,
    /// What each of the others may take at the same time of what nobody holds, if `mine` grew.
    pub(crate) theirs: Vec<u64>,
}

/// What of a limit is not to be had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Away {
    /// Used by those that are there no more.
    pub(crate) gone: u64,
    /// Let go of by this gateway so lately that others may be taking it: taking it back would give it twice.
    pub(crate) let_go: u64,
}

/// What `me` may hold from now on of `limit`.
///
/// Letting go needs nobody's consent; taking is bounded by what nobody used or holds.
pub(crate) fn hold(limit: u64, Away { gone, let_go }: Away, me: Holder, others: &[Holder]) -> Hold {
    let all: Vec<&Holder> = std::iter::once(&me).chain(others).collect();
    let parts = all.iter().fold(0u64, |sum, h| sum.saturating_add(h.used).saturating_add(h.held));
    let there = limit.saturating_sub(gone);
    if others.is_empty() {
        return Hold { mine: there.saturating_sub(me.used), theirs: Vec::new() };
    }
    let portion = all.iter().map(|h| h.need).filter(|&need| need <= there).max().unwrap_or(0).max(1);
    let wanted = wanted_holds(there, portion, &all);
    let nothing = vec![0; others.len()];
    if parts > there {
        // More is held than there is: everybody gives up their part of it.
        let held = all.iter().map(|h| u128::from(h.held)).sum::<u128>().max(1);
        let cut = (u128::from(parts - there) * u128::from(me.held)).div_ceil(held);
        let left = u128::from(me.held).saturating_sub(cut) as u64;
        return Hold { mine: left.min(wanted[0]), theirs: nothing };
    }
    if me.held >= wanted[0] {
        // One portion too many, where there is demand, is used sooner than it is handed over.
        let keeps = me.wanted > 0.0 && me.held - wanted[0] <= portion;
        return Hold { mine: if keeps { me.held } else { wanted[0] }, theirs: nothing };
    }
    let missing: Vec<u64> =
        all.iter().zip(&wanted).map(|(h, wanted)| wanted.saturating_sub(h.held)).collect();
    let mut dealt = deal(there.saturating_sub(parts).saturating_sub(let_go), &all, &missing);
    let theirs = dealt.split_off(1);
    if dealt[0] == 0 {
        return Hold { mine: me.held, theirs: nothing };
    }
    Hold { mine: me.held + dealt[0], theirs }
}

/// What each should hold.
///
/// It is dealt in portions of the largest request that waits for room: parts that are too small for any request would be of use to nobody.
fn wanted_holds(limit: u64, portion: u64, all: &[&Holder]) -> Vec<u64> {
    let portions = limit / portion;
    let n = all.len() as f64;
    let demand: f64 = all.iter().map(|h| h.wanted).sum();
    let weight = |holder: &Holder| {
        if demand > 0.0 { IDLE_PART / n + (1.0 - IDLE_PART) * holder.wanted / demand } else { 1.0 / n }
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
    let mut parts: Vec<u64> = dealt.iter().map(|portions| portions * portion).collect();
    if let Some(&first) = order.first() {
        parts[first] += limit % portion;
    }
    all.iter().zip(parts).map(|(holder, part)| part.saturating_sub(holder.used)).collect()
}

/// Splits what nobody holds between those that miss something, in proportion and to the last unit.
fn deal(free: u64, all: &[&Holder], missing: &[u64]) -> Vec<u64> {
    let all_missing: u128 = missing.iter().map(|&m| u128::from(m)).sum();
    let free = u128::from(free).min(all_missing);
    let part = |missing: u64| (free * u128::from(missing) / all_missing.max(1)) as u64;
    let mut dealt: Vec<u64> = missing.iter().map(|&missing| part(missing)).collect();
    let mut over = free - dealt.iter().map(|&d| u128::from(d)).sum::<u128>();
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|&i| all[i].rank);
    for i in order {
        if over > 0 && dealt[i] < missing[i] {
            dealt[i] += 1;
            over -= 1;
        }
    }
    dealt
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hold(limit: u64, gone: u64, me: Holder, others: &[Holder]) -> u64 {
        super::hold(limit, Away { gone, let_go: 0 }, me, others).mine
    }

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
        assert_eq!(hold(100, 0, holder(0, 0, 50, 0.0, 0), &[holder(1, 0, 50, 10.0, 0)]), 2);
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
            // A few exchanges lead to where all of it is held, but for what rounding leaves.
            let mut settled: Vec<Holder> = all.iter().zip(&next).map(|(h, &held)| Holder { held, ..*h }).collect();
            for _ in 0..3 {
                let next: Vec<u64> = (0..all.len())
                    .map(|i| hold(limit, gone, settled[i], &[&settled[..i], &settled[i + 1..]].concat()))
                    .collect();
                settled.iter_mut().zip(next).for_each(|(holder, held)| holder.held = held);
            }
            let last: u64 = settled.iter().map(|h| h.held).sum();
            prop_assert!(last <= left && left - last <= all.len() as u64, "{} of {}", last, left);
        }
    }
}
