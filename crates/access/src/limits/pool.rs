//! One limit of one caller, as one gateway keeps it: what was used here, what may be used here without asking anybody, and what the other
//! gateways said of theirs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::window::{When, Window};
use super::{Cause, Level, Limit};
use crate::shares::peers::{Peers, Standing as PeerStanding};
use crate::shares::split::{Holder, fair_part, hold};
use crate::shares::{GoneUse, PoolReport};

/// Demand is forgotten at this pace, so that shares follow it within seconds and a pause of a second moves none.
const DEMAND_MEMORY_MS: f64 = 5_000.0;

/// How long a request that found no room is kept in mind, so that room for it is kept together.
const NEED_MEMORY_MS: u64 = 10_000;

/// The time as limits count it: from the limiter's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tick {
    pub(crate) ms: u64,
    pub(crate) day: u64,
    pub(crate) rest_of_day: Duration,
}

impl Tick {
    pub(crate) fn second(self) -> u64 {
        self.ms / 1000
    }
}

/// One limit of one caller.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    kind: Limit,
    limit: u64,
    /// Used here.
    used: Window,
    /// What may be used here before the others are heard again. Used and held together only grow when there is room for it.
    held: u64,
    demand: Demand,
    /// What the others said, by the number of each in [`Peers`].
    others: BTreeMap<u32, Other>,
    /// Something was heard since shares were last computed.
    stale: bool,
}

/// What another gateway said last.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Other {
    used: u64,
    held: u64,
    wanted: f64,
    need: u64,
    day: u64,
    /// The report that it stood in.
    sequence: u64,
}

/// How much is asked for here.
#[derive(Clone, Copy, Debug, Default)]
struct Demand {
    wanted: f64,
    at_ms: u64,
    need: u64,
    need_at_ms: u64,
}

/// Why there is no room, before anybody knows whose limit it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) cause: Cause,
    pub(crate) retry_after: Duration,
    pub(crate) level: Level,
}

impl Pool {
    pub(crate) fn new(kind: Limit, limit: u64, now: Tick) -> Pool {
        let used = match kind {
            Limit::Requests | Limit::Tokens => Window::minute(),
            Limit::Day => Window::Day { day: now.day, sum: 0 },
            Limit::Concurrent => Window::Running { sum: 0 },
        };
        let demand = Demand { at_ms: now.ms, ..Demand::default() };
        Pool { kind, limit, used, held: 0, demand, others: BTreeMap::new(), stale: true }
    }

    /// A pool that another gateway was the first to speak of: this one has the part that it was always entitled to, until it gives it away.
    pub(crate) fn heard_of(kind: Limit, limit: u64, peers: &Peers, now: Tick) -> Pool {
        let mut pool = Pool::new(kind, limit, now);
        pool.held = peers.entitled(limit, now);
        pool
    }

    pub(crate) fn set_limit(&mut self, limit: u64) {
        if self.limit != limit {
            self.limit = limit;
            self.stale = true;
        }
    }

    /// Whether so much may be used now; reserves nothing.
    pub(crate) fn room(&mut self, now: Tick, peers: &Peers, amount: u64) -> Result<(), Full> {
        self.advance(now, peers);
        self.demand.ask(now, amount);
        if amount > self.limit {
            return Err(self.full(now, peers, Cause::TooLarge, Duration::from_secs(60)));
        }
        self.balance(now, peers);
        if self.held >= amount {
            return Ok(());
        }
        // Only what is new is a reason to look again: asking often must not get more than the others left for us.
        self.stale |= self.demand.need(now, amount);
        self.balance(now, peers);
        if self.held >= amount {
            return Ok(());
        }
        let left = self.left(now, peers);
        if left >= amount {
            return Err(self.full(now, peers, Cause::HeldElsewhere, Duration::from_secs(1)));
        }
        let retry_after = self.used.until_fewer(now, amount - left).unwrap_or_else(|| match self.kind {
            // Others used it, and nobody says when: as if they had done so evenly.
            Limit::Requests | Limit::Tokens => {
                let share = (amount - left).saturating_mul(60_000).div_ceil(self.limit.max(1));
                Duration::from_millis(share.min(60_000))
            }
            Limit::Concurrent => Duration::from_secs(1),
            Limit::Day => now.rest_of_day,
        });
        Err(self.full(now, peers, Cause::Spent, retry_after))
    }

    /// Uses what [`Pool::room`] found room for.
    pub(crate) fn take(&mut self, now: Tick, amount: u64) {
        self.held = self.held.saturating_sub(amount);
        self.used.add(When::of(now), amount);
    }

    /// Gives back what was reserved then and not used.
    pub(crate) fn give_back(&mut self, when: When, amount: u64) {
        self.held += self.used.take_back(when, amount);
    }

    /// Counts what was used beyond what was reserved then.
    pub(crate) fn take_more(&mut self, when: When, amount: u64) {
        self.held = self.held.saturating_sub(amount);
        self.used.add(when, amount);
    }

    pub(crate) fn level(&self, now: Tick, peers: &Peers) -> Level {
        Level { limit: self.limit, remaining: self.left(now, peers), reset: self.used.until_none(now) }
    }

    /// Whether forgetting it changes nothing.
    pub(crate) fn is_idle(&mut self, now: Tick, peers: &Peers) -> bool {
        self.advance(now, peers);
        self.used.sum() == 0 && self.demand.wanted(now) < 0.5 && self.left(now, peers) == self.limit
    }

    /// Takes what another gateway said.
    pub(crate) fn hear(&mut self, peer: u32, sequence: u64, report: &PoolReport) {
        let PoolReport { limit: _, used, held, wanted, need, day, gone: _ } = *report;
        // Foreign numbers: a share is a share only if it is finite.
        let wanted = if wanted.is_finite() { wanted.max(0.0) } else { 0.0 };
        self.others.insert(peer, Other { used, held, wanted, need, day, sequence });
        self.stale = true;
    }

    /// Takes what another gateway knows of one that is gone.
    pub(crate) fn hear_of_gone(&mut self, peer: u32, report: &PoolReport, gone: &GoneUse) {
        let said = Other { used: gone.used, held: 0, wanted: 0.0, need: 0, day: report.day, sequence: 0 };
        let known = self.others.entry(peer).or_insert(said);
        if known.day == said.day {
            known.used = known.used.max(said.used);
        }
        self.stale = true;
    }

    /// Forgets what stood in earlier reports and no more in this one.
    pub(crate) fn hear_nothing(&mut self, peer: u32, sequence: u64) {
        if self.others.get(&peer).is_some_and(|other| other.sequence != sequence) {
            self.others.remove(&peer);
            self.stale = true;
        }
    }

    /// What the others need to know.
    pub(crate) fn report(&mut self, now: Tick, peers: &Peers) -> PoolReport {
        self.advance(now, peers);
        self.stale = true;
        self.balance(now, peers);
        let gone = self.others.iter().filter(|(_, other)| other.used > 0 && other.day == self.day(now));
        let gone = gone.filter_map(|(&number, other)| {
            let (life, age_ms) = peers.gone(number, now)?;
            self.counts_gone(age_ms).then(|| (life.to_owned(), GoneUse { used: other.used, age_ms }))
        });
        PoolReport {
            limit: self.limit,
            used: self.used.sum(),
            held: self.held,
            wanted: self.demand.wanted(now),
            need: self.demand.needed(now),
            day: self.day(now),
            gone: gone.collect(),
        }
    }

    fn advance(&mut self, now: Tick, peers: &Peers) {
        let before = self.used.sum();
        if self.used.advance(now) {
            // What was held was of yesterday's budget.
            self.held = 0;
            self.stale = true;
        }
        self.stale |= peers.alone() || self.used.sum() != before;
    }

    /// Which day its uses are of; one that days do not matter for is always of the same.
    fn day(&self, now: Tick) -> u64 {
        match self.kind {
            Limit::Day => now.day,
            Limit::Concurrent | Limit::Requests | Limit::Tokens => 0,
        }
    }

    /// Whether uses of a gateway that was last heard so long ago still count.
    fn counts_gone(&self, age_ms: u64) -> bool {
        match self.kind {
            Limit::Concurrent => false,
            Limit::Requests | Limit::Tokens => age_ms <= 61_000,
            Limit::Day => true,
        }
    }

    /// What nobody has used yet.
    fn left(&self, now: Tick, peers: &Peers) -> u64 {
        let others = self.holders(now, peers).1;
        let used: u64 =
            others.iter().fold(self.gone(now, peers), |sum, other| sum.saturating_add(other.used));
        self.limit.saturating_sub(self.used.sum()).saturating_sub(used)
    }

    /// What those used that are gone.
    fn gone(&self, now: Tick, peers: &Peers) -> u64 {
        let day = self.day(now);
        self.others
            .iter()
            .filter(|(number, other)| {
                other.day == day && peers.gone(**number, now).is_some_and(|(_, age)| self.counts_gone(age))
            })
            .fold(0, |sum, (_, other)| sum.saturating_add(other.used))
    }

    /// This gateway and the others that take part.
    fn holders(&self, now: Tick, peers: &Peers) -> (Holder, Vec<Holder>) {
        let day = self.day(now);
        let me = Holder {
            rank: peers.my_rank(),
            used: self.used.sum(),
            held: self.held,
            wanted: self.demand.wanted(now),
            need: self.demand.needed(now),
        };
        let others = peers.taking_part(now).map(|(number, rank, standing)| {
            let said = self.others.get(&number).filter(|other| other.day == day);
            let fair = fair_part(self.limit, rank, peers.count());
            let nothing = Holder { rank, used: 0, held: 0, wanted: 0.0, need: 0 };
            match (standing, said) {
                (PeerStanding::Heard, Some(o)) => {
                    Holder { used: o.used, held: o.held, wanted: o.wanted, need: o.need, ..nothing }
                }
                // It does not know of this caller, and may let in what everybody may who knows nothing.
                (PeerStanding::Heard, None) => Holder { held: fair, ..nothing },
                (PeerStanding::New, _) => Holder { held: peers.welcome(self.limit), ..nothing },
                (PeerStanding::Silent, said) => {
                    let used = said.map_or(0, |o| o.used);
                    Holder { used, held: fair.saturating_sub(used), ..nothing }
                }
            }
        });
        (me, others.collect())
    }

    /// Gives away what others need more, and takes what nobody holds.
    fn balance(&mut self, now: Tick, peers: &Peers) {
        if !self.stale {
            return;
        }
        self.stale = false;
        let (me, others) = self.holders(now, peers);
        let held = hold(self.limit, self.gone(now, peers), me, &others);
        self.held =
            peers.ceiling(self.limit, now).map_or(held, |most| held.min(most.saturating_sub(me.used)));
    }

    fn full(&self, now: Tick, peers: &Peers, cause: Cause, retry_after: Duration) -> Full {
        Full { cause, retry_after, level: self.level(now, peers) }
    }
}

impl Demand {
    fn ask(&mut self, now: Tick, amount: u64) {
        self.wanted = self.wanted(now) + amount as f64;
        self.at_ms = now.ms;
    }

    /// Says whether it needs more than was known.
    fn need(&mut self, now: Tick, amount: u64) -> bool {
        let known = self.needed(now);
        self.need = amount.max(known);
        self.need_at_ms = now.ms;
        amount > known
    }

    fn wanted(&self, now: Tick) -> f64 {
        self.wanted * (-(now.ms.saturating_sub(self.at_ms) as f64) / DEMAND_MEMORY_MS).exp()
    }

    fn needed(&self, now: Tick) -> u64 {
        if now.ms.saturating_sub(self.need_at_ms) <= NEED_MEMORY_MS { self.need } else { 0 }
    }
}
