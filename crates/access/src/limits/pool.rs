//! One limit of one caller, as one gateway keeps it: what was used here, what may be used here without asking anybody, and what the other
//! gateways said of theirs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::window::{When, Window, still_counts};
use super::{Cause, Level, Limit};
use crate::shares::peers::{Peers, Standing as PeerStanding};
use crate::shares::split::{Away, Hold, Holder, fair_part, hold};
use crate::shares::{GoneUse, PoolReport};

/// Demand is forgotten at this pace, so that shares follow it within seconds and a pause of a second moves none.
const DEMAND_MEMORY_MS: f64 = 2_500.0;

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
    /// What others may have taken when this gateway did, until they confirm the report that says so: its sequence and how much.
    unconfirmed: BTreeMap<u32, Vec<(u64, u64)>>,
    /// What this gateway let go of, until all others confirm the report that says so.
    let_go: Vec<(u64, u64)>,
}

/// What another gateway said last.
#[derive(Clone, Debug, PartialEq)]
struct Other {
    used: u64,
    leaving: Vec<u64>,
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
    /// What the others were told, which this gateway goes by too: all must split by the same numbers, or several take the same last unit.
    published: f64,
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
    /// A pool of which nothing was used here: this gateway has the part that it has of everything.
    pub(crate) fn new(kind: Limit, limit: u64, peers: &Peers, now: Tick) -> Pool {
        let used = match kind {
            Limit::Requests | Limit::Tokens => Window::minute(),
            Limit::Day => Window::Day { day: now.day, sum: 0 },
            Limit::Concurrent => Window::Running { sum: 0 },
        };
        let demand = Demand { at_ms: now.ms, ..Demand::default() };
        Pool {
            kind,
            limit,
            used,
            held: peers.entitled(limit),
            demand,
            others: BTreeMap::new(),
            unconfirmed: BTreeMap::new(),
            let_go: Vec::new(),
        }
    }

    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Whether so much may be used now; reserves nothing.
    pub(crate) fn room(&mut self, now: Tick, peers: &Peers, amount: u64) -> Result<(), Full> {
        self.advance(now);
        self.demand.ask(now, amount);
        if amount > self.limit {
            return Err(self.full(now, peers, Cause::TooLarge, Duration::from_secs(60)));
        }
        self.balance(now, peers);
        if self.usable(now, peers) >= amount {
            return Ok(());
        }
        self.demand.need(now, amount);
        self.balance(now, peers);
        if self.usable(now, peers) >= amount {
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

    /// What may be used now of what is held: little before the others were heard, who may know of uses that we do not.
    fn usable(&self, now: Tick, peers: &Peers) -> u64 {
        let most = peers.ceiling(self.limit, now).map(|most| most.saturating_sub(self.used.sum()));
        most.map_or(self.held, |most| most.min(self.held))
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
        self.advance(now);
        self.used.sum() == 0 && self.demand.wanted(now) < 0.5 && self.left(now, peers) == self.limit
    }

    /// Takes what another gateway said.
    pub(crate) fn hear(&mut self, peer: u32, sequence: u64, report: &PoolReport) {
        let PoolReport { limit: _, used, leaving, held, wanted, need, day, gone: _ } = report;
        // Foreign numbers: a share is a share only if it is finite.
        let wanted = if wanted.is_finite() { wanted.clamp(0.0, 1e15) } else { 0.0 };
        let (used, leaving, held) = (*used, leaving.clone(), *held);
        self.others.insert(peer, Other { used, leaving, held, wanted, need: *need, day: *day, sequence });
    }

    /// Takes what another gateway knows of one that is gone.
    pub(crate) fn hear_of_gone(&mut self, peer: u32, report: &PoolReport, gone: &GoneUse) {
        let GoneUse { used, leaving, age_ms: _ } = gone.clone();
        let said = Other { used, leaving, held: 0, wanted: 0.0, need: 0, day: report.day, sequence: 0 };
        let known = self.others.entry(peer).or_insert_with(|| said.clone());
        if known.day == said.day && known.used < said.used {
            *known = said;
        }
    }

    /// Forgets what stood in earlier reports and no more in this one.
    pub(crate) fn hear_nothing(&mut self, peer: u32, sequence: u64) {
        if self.others.get(&peer).is_some_and(|other| other.sequence != sequence) {
            self.others.remove(&peer);
        }
    }

    /// What the others need to know.
    pub(crate) fn report(&mut self, now: Tick, peers: &Peers) -> PoolReport {
        self.advance(now);
        self.demand.publish(now);
        self.balance(now, peers);
        self.others.retain(|number, _| peers.knows(*number));
        let gone = self.others.iter().filter_map(|(&number, other)| {
            let (life, age_ms) = peers.gone(number, now)?;
            let counts = self.counts_gone(other, age_ms, now) > 0;
            let gone = || GoneUse { used: other.used, leaving: other.leaving.clone(), age_ms };
            counts.then(|| (life.to_owned(), gone()))
        });
        PoolReport {
            limit: self.limit,
            used: self.used.sum(),
            leaving: self.used.leaving(now),
            held: self.held,
            wanted: self.demand.published,
            need: self.demand.needed(now),
            day: self.day(now),
            gone: gone.collect(),
        }
    }

    /// What ceases to count may be used again, here.
    fn advance(&mut self, now: Tick) {
        let before = self.used.sum();
        self.used.advance(now);
        self.held = self.held.saturating_add(before - self.used.sum());
    }

    /// Which day its uses are of; one that days do not matter for is always of the same.
    fn day(&self, now: Tick) -> u64 {
        match self.kind {
            Limit::Day => now.day,
            Limit::Concurrent | Limit::Requests | Limit::Tokens => 0,
        }
    }

    /// How much of the uses of a gateway that was last heard so long ago still counts.
    fn counts_gone(&self, other: &Other, age_ms: u64, now: Tick) -> u64 {
        match self.kind {
            Limit::Concurrent => 0,
            Limit::Requests | Limit::Tokens => still_counts(&other.leaving, age_ms),
            Limit::Day if other.day == now.day => other.used,
            Limit::Day => 0,
        }
    }

    /// What nobody has used yet.
    fn left(&self, now: Tick, peers: &Peers) -> u64 {
        let others = self.holders(now, peers).1;
        let used: u64 =
            others.iter().fold(self.gone(now, peers), |sum, (_, other)| sum.saturating_add(other.used));
        self.limit.saturating_sub(self.used.sum()).saturating_sub(used)
    }

    /// What those used that are gone, and still counts.
    fn gone(&self, now: Tick, peers: &Peers) -> u64 {
        let uses = self.others.iter().filter_map(|(&number, other)| {
            let (_, age_ms) = peers.gone(number, now)?;
            Some(self.counts_gone(other, age_ms, now))
        });
        uses.fold(0, u64::saturating_add)
    }

    /// This gateway and the others that take part.
    fn holders(&self, now: Tick, peers: &Peers) -> (Holder, Vec<(u32, Holder)>) {
        let day = self.day(now);
        let me = Holder {
            rank: peers.my_rank(),
            used: self.used.sum(),
            held: self.held,
            wanted: self.demand.published,
            need: self.demand.needed(now),
        };
        let others = peers.taking_part(now).map(|(number, rank, standing)| {
            let said = self.others.get(&number);
            let fair = fair_part(self.limit, rank, peers.count());
            let nothing = Holder { rank, used: 0, held: 0, wanted: 0.0, need: 0 };
            let mut holder = match (standing, said) {
                // Yesterday's part is today's, unused.
                (PeerStanding::Heard, Some(o)) if o.day != day => {
                    Holder { held: o.used.saturating_add(o.held), wanted: o.wanted, need: o.need, ..nothing }
                }
                (PeerStanding::Heard, Some(o)) => {
                    Holder { used: o.used, held: o.held, wanted: o.wanted, need: o.need, ..nothing }
                }
                // It does not know of this caller, and may let in what everybody may who knows nothing.
                (PeerStanding::Heard, None) => Holder { held: fair, ..nothing },
                (PeerStanding::New, _) => Holder { held: fair, ..nothing },
                (PeerStanding::Silent, said) => {
                    let used = said.filter(|o| o.day == day).map_or(0, |o| o.used);
                    Holder { used, held: fair.saturating_sub(used), ..nothing }
                }
            };
            holder.held = holder.held.saturating_add(self.may_have_taken(number, peers));
            (number, holder)
        });
        (me, others.collect())
    }

    /// What the gateway may have taken since, without having seen what we took.
    fn may_have_taken(&self, number: u32, peers: &Peers) -> u64 {
        let Some(confirmed) = peers.confirmed(number) else { return 0 };
        let taken = self.unconfirmed.get(&number).into_iter().flatten();
        taken
            .filter(|(report, _)| *report > confirmed)
            .fold(0, |sum, (_, amount)| sum.saturating_add(*amount))
    }

    /// Gives away what others need more, and takes what nobody holds.
    fn balance(&mut self, now: Tick, peers: &Peers) {
        let (me, others) = self.holders(now, peers);
        let (numbers, others): (Vec<u32>, Vec<Holder>) = others.into_iter().unzip();
        let confirmed = peers.confirmed_by_all();
        self.let_go.retain(|(report, _)| *report > confirmed);
        let let_go = self.let_go.iter().fold(0, |sum: u64, (_, amount)| sum.saturating_add(*amount));
        let away = Away { gone: self.gone(now, peers), let_go };
        let Hold { mine, theirs } = hold(self.limit, away, me, &others);
        self.held = mine;
        self.unconfirmed.retain(|number, taken| {
            taken.retain(|(report, _)| peers.confirmed(*number).is_some_and(|confirmed| *report > confirmed));
            !taken.is_empty()
        });
        let report = peers.next_report();
        if self.held < me.held && !numbers.is_empty() {
            self.let_go.push((report, me.held - self.held));
        }
        for (number, amount) in numbers.into_iter().zip(theirs).filter(|(_, amount)| *amount > 0) {
            let taken = self.unconfirmed.entry(number).or_default();
            match taken.last_mut() {
                Some(last) if last.0 == report => last.1 = last.1.saturating_add(amount),
                Some(_) | None => taken.push((report, amount)),
            }
        }
    }

    fn full(&self, now: Tick, peers: &Peers, cause: Cause, retry_after: Duration) -> Full {
        Full { cause, retry_after, level: self.level(now, peers) }
    }
}

impl Demand {
    fn ask(&mut self, now: Tick, amount: u64) {
        self.wanted = self.wanted(now) + amount as f64;
        self.at_ms = now.ms;
        if self.published == 0.0 {
            self.published = self.wanted;
        }
    }

    fn need(&mut self, now: Tick, amount: u64) {
        self.need = amount.max(self.needed(now));
        self.need_at_ms = now.ms;
    }

    /// Tells the others only what is news: shares that follow every chance are never agreed on.
    fn publish(&mut self, now: Tick) {
        let wanted = self.wanted(now);
        if (wanted - self.published).abs() > self.published * 0.25 {
            self.published = if wanted < 0.5 { 0.0 } else { wanted };
        }
    }

    fn wanted(&self, now: Tick) -> f64 {
        self.wanted * (-(now.ms.saturating_sub(self.at_ms) as f64) / DEMAND_MEMORY_MS).exp()
    }

    fn needed(&self, now: Tick) -> u64 {
        if now.ms.saturating_sub(self.need_at_ms) <= NEED_MEMORY_MS { self.need } else { 0 }
    }
}
