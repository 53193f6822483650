//! Who the other gateways are, and which of them count.
//!
//! A gateway is heard, new (known by name, not yet heard), silent (named, and not heard for a while: it may still let requests in) or gone.

use std::collections::BTreeMap;

use super::{LEASE, Seen, UsageReport};
use crate::limits::Tick;

/// How long memories of gateways that are gone are kept: a day's budget needs them for a day.
const MEMORY_MS: u64 = 26 * 3600 * 1000;

/// The other gateways.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    me: String,
    epoch: u64,
    started_ms: u64,
    /// By a number that is never used again.
    all: BTreeMap<u32, Peer>,
    next: u32,
    /// This gateway's last report.
    sequence: u64,
}

/// One life of one gateway.
#[derive(Clone, Debug)]
struct Peer {
    name: String,
    /// Absent until it was heard.
    epoch: Option<u64>,
    /// `name/epoch`.
    life: String,
    sequence: u64,
    /// The last of our reports that it had seen.
    confirmed: u64,
    /// Last heard, or else first named.
    seen_ms: u64,
    /// Others say that it exists.
    named: bool,
    gone: bool,
}

/// How much another gateway is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Heard,
    New,
    Silent,
}

impl Peers {
    pub(crate) fn new(me: &str, epoch: u64, now: Tick) -> Peers {
        let me = me.to_owned();
        Peers { me, epoch, started_ms: now.ms, all: BTreeMap::new(), next: 0, sequence: 0 }
    }

    /// Takes the names of all gateways that should be there.
    pub(crate) fn name(&mut self, now: Tick, names: &[String]) {
        for peer in self.all.values_mut().filter(|peer| !peer.gone) {
            let named = names.contains(&peer.name);
            // One that is named no more was taken away; what it used counts on.
            peer.gone |= peer.named && !named;
            peer.named = named;
        }
        for name in names {
            if *name != self.me && !self.all.values().any(|peer| !peer.gone && peer.name == *name) {
                self.add(Peer { named: true, ..Peer::new(name, now) });
            }
        }
        self.refresh(now);
    }

    /// The number of a report's sender, if the report is news.
    pub(crate) fn hear(&mut self, now: Tick, report: &UsageReport) -> Option<u32> {
        let UsageReport { gateway, epoch, sequence, seen, meters: _ } = report;
        let ours = seen.get(&self.me).filter(|seen| seen.epoch == self.epoch).map(|seen| seen.sequence);
        if *gateway == self.me {
            // Our own words, or those of an earlier life, which a file kept.
            return if *epoch < self.epoch { self.gone_life(now, gateway, *epoch, 0) } else { None };
        }
        if self.all.values().any(|peer| peer.name == *gateway && peer.epoch.is_some_and(|e| e > *epoch)) {
            return None;
        }
        let mut named = false;
        let lives = self.all.values_mut().filter(|peer| peer.name == *gateway);
        for earlier in lives.filter(|peer| peer.epoch.is_some_and(|known| known != *epoch)) {
            named |= earlier.named && !earlier.gone;
            earlier.gone = true;
        }
        let known = self
            .all
            .iter()
            .find(|(_, peer)| peer.name == *gateway && peer.epoch.is_none_or(|known| known == *epoch));
        let number = match known {
            Some((_, peer)) if peer.epoch.is_some() && peer.sequence >= *sequence => return None,
            Some((number, _)) => *number,
            None => self.add(Peer { named, ..Peer::new(gateway, now) }),
        };
        let peer = self.all.get_mut(&number)?;
        peer.epoch = Some(*epoch);
        peer.confirmed = peer.confirmed.max(ours.unwrap_or(0));
        peer.life = format!("{gateway}/{epoch}");
        (peer.sequence, peer.seen_ms, peer.gone) = (*sequence, now.ms, false);
        self.refresh(now);
        Some(number)
    }

    /// The number of a gateway that is gone, as another one says; nothing if we know better.
    pub(crate) fn hear_of_gone(&mut self, now: Tick, life: &str, age_ms: u64) -> Option<u32> {
        let (name, epoch) = life.rsplit_once('/')?;
        let epoch = epoch.parse().ok()?;
        if name == self.me && epoch >= self.epoch {
            return None;
        }
        self.gone_life(now, name, epoch, age_ms)
    }

    fn gone_life(&mut self, now: Tick, name: &str, epoch: u64, age_ms: u64) -> Option<u32> {
        let known = self.all.iter().find(|(_, peer)| peer.name == name && peer.epoch == Some(epoch));
        if let Some((&number, peer)) = known {
            return peer.gone.then_some(number);
        }
        let life = format!("{name}/{epoch}");
        let seen_ms = now.ms.saturating_sub(age_ms);
        let peer = Peer { epoch: Some(epoch), life, seen_ms, gone: true, ..Peer::new(name, now) };
        Some(self.add(peer))
    }

    /// Forgets and reconsiders; to be called now and then.
    pub(crate) fn refresh(&mut self, now: Tick) {
        for peer in self.all.values_mut().filter(|peer| !peer.named) {
            peer.gone |= peer.quiet(now);
        }
        self.all.retain(|_, peer| !peer.gone || (peer.epoch.is_some() && peer.age(now) <= MEMORY_MS));
    }

    /// Number, rank and standing of everybody else who takes part.
    pub(crate) fn taking_part(&self, now: Tick) -> impl Iterator<Item = (u32, usize, Standing)> {
        self.all.iter().filter(|(_, peer)| !peer.gone).map(move |(number, peer)| {
            let standing = match (peer.epoch, peer.quiet(now)) {
                (Some(_), false) => Standing::Heard,
                (None, false) => Standing::New,
                (_, true) => Standing::Silent,
            };
            (*number, self.rank(&peer.name), standing)
        })
    }

    /// The sequence of the report that is made now.
    pub(crate) fn start_report(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// The sequence of the report that will be the first to have what changes now.
    pub(crate) fn next_report(&self) -> u64 {
        self.sequence + 1
    }

    /// The last of our reports that the gateway had seen when it was last heard; nothing for one that never was, or is gone.
    pub(crate) fn confirmed(&self, number: u32) -> Option<u64> {
        self.all.get(&number).filter(|peer| peer.epoch.is_some() && !peer.gone).map(|peer| peer.confirmed)
    }

    /// The last of our reports that all had seen who were ever heard and are still there.
    pub(crate) fn confirmed_by_all(&self) -> u64 {
        let there = self.all.values().filter(|peer| !peer.gone && peer.epoch.is_some());
        there.map(|peer| peer.confirmed).min().unwrap_or(u64::MAX)
    }

    /// The last report of each gateway that takes part.
    pub(crate) fn seen(&self) -> BTreeMap<String, Seen> {
        let there = self.all.values().filter(|peer| !peer.gone);
        there.filter_map(|p| Some((p.name.clone(), Seen { epoch: p.epoch?, sequence: p.sequence }))).collect()
    }

    /// How many take part, this gateway included.
    pub(crate) fn count(&self) -> usize {
        1 + self.all.values().filter(|peer| !peer.gone).count()
    }

    /// This gateway's place in the order of names.
    pub(crate) fn my_rank(&self) -> usize {
        self.rank(&self.me)
    }

    /// The life and age of a gateway that is gone.
    pub(crate) fn gone(&self, number: u32, now: Tick) -> Option<(&str, u64)> {
        let peer = self.all.get(&number)?;
        peer.gone.then(|| (peer.life.as_str(), peer.age(now)))
    }

    /// Whether the number still means a gateway.
    pub(crate) fn knows(&self, number: u32) -> bool {
        self.all.contains_key(&number)
    }

    /// Whether everybody who should be there was heard, or had time to speak.
    pub(crate) fn settled(&self, now: Tick) -> bool {
        now.ms.saturating_sub(self.started_ms) >= LEASE.as_millis() as u64
            || self.taking_part(now).all(|(_, _, standing)| standing == Standing::Heard)
    }

    /// What a gateway may let in before it has heard the others, who may have used everything.
    fn welcome(&self, limit: u64) -> u64 {
        limit / (10 * self.count() as u64)
    }

    /// The most that this gateway may use, unless it knows enough to need no bound.
    pub(crate) fn ceiling(&self, limit: u64, now: Tick) -> Option<u64> {
        (!self.settled(now)).then(|| self.welcome(limit))
    }

    /// What this gateway holds of a limit that it has never seen.
    pub(crate) fn entitled(&self, limit: u64) -> u64 {
        super::split::fair_part(limit, self.my_rank(), self.count())
    }

    fn rank(&self, name: &str) -> usize {
        let others = self.all.values().filter(|peer| !peer.gone && peer.name.as_str() < name).count();
        others + usize::from(self.me.as_str() < name)
    }

    fn add(&mut self, peer: Peer) -> u32 {
        let number = self.next;
        self.next += 1;
        self.all.insert(number, peer);
        number
    }
}

impl Peer {
    fn new(name: &str, now: Tick) -> Peer {
        Peer {
            name: name.to_owned(),
            epoch: None,
            life: String::new(),
            sequence: 0,
            confirmed: 0,
            seen_ms: now.ms,
            named: false,
            gone: false,
        }
    }

    fn age(&self, now: Tick) -> u64 {
        now.ms.saturating_sub(self.seen_ms)
    }

    fn quiet(&self, now: Tick) -> bool {
        self.age(now) > LEASE.as_millis() as u64
    }
}
