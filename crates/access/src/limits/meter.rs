//! All limits of one caller at one service, or of everybody together there.

use std::collections::BTreeMap;

use super::pool::{Full, Pool, Tick};
use super::window::When;
use super::{Limit, Limits, Standing};
use crate::shares::peers::Peers;
use crate::shares::{MeterReport, PoolReport};

/// All limits of one caller.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pools: BTreeMap<Limit, Pool>,
    /// Requests that have not ended.
    open: u32,
}

/// What was taken of a meter's pools, so that what is given back goes there and nowhere else.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    running: bool,
    tokens: bool,
    day: bool,
}

impl Meter {
    /// Takes the limits as they are now.
    pub(crate) fn set_limits(&mut self, now: Tick, peers: &Peers, limits: Limits) {
        for limit in Limit::ALL {
            match limits.get(limit) {
                Some(most) => {
                    self.pools
                        .entry(limit)
                        .or_insert_with(|| Pool::new(limit, most, peers, now))
                        .set_limit(most);
                }
                None => {
                    self.pools.remove(&limit);
                }
            }
        }
    }

    /// Whether one more request and its tokens may be used now; reserves nothing.
    pub(crate) fn room(&mut self, now: Tick, peers: &Peers, tokens: u64) -> Result<(), (Limit, u64, Full)> {
        for (&limit, pool) in &mut self.pools {
            let amount = amount(limit, tokens);
            pool.room(now, peers, amount).map_err(|full| (limit, amount, full))?;
        }
        Ok(())
    }

    /// Uses what [`Meter::room`] found room for.
    pub(crate) fn take(&mut self, now: Tick, tokens: u64) -> Taken {
        self.open += 1;
        for (&limit, pool) in &mut self.pools {
            pool.take(now, amount(limit, tokens));
        }
        let has = |limit| self.pools.contains_key(&limit);
        Taken { running: has(Limit::Concurrent), tokens: has(Limit::Tokens), day: has(Limit::Day) }
    }

    /// Ends a request for which `reserved` tokens were taken then, and which used others.
    pub(crate) fn end(&mut self, taken: Taken, when: When, reserved: u64, used: u64) {
        let Taken { running, tokens, day } = taken;
        self.open = self.open.saturating_sub(1);
        if running && let Some(pool) = self.pools.get_mut(&Limit::Concurrent) {
            pool.give_back(when, 1);
        }
        for limit in [(Limit::Tokens, tokens), (Limit::Day, day)].into_iter().filter(|l| l.1).map(|l| l.0) {
            let Some(pool) = self.pools.get_mut(&limit) else { continue };
            if used > reserved {
                pool.take_more(when, used - reserved);
            } else {
                pool.give_back(when, reserved - used);
            }
        }
    }

    pub(crate) fn standing(&self, now: Tick, peers: &Peers) -> Standing {
        let level = |limit| self.pools.get(&limit).map(|pool: &Pool| pool.level(now, peers));
        Standing { requests: level(Limit::Requests), tokens: level(Limit::Tokens) }
    }

    /// Whether forgetting it changes nothing.
    pub(crate) fn is_idle(&mut self, now: Tick, peers: &Peers) -> bool {
        self.open == 0 && self.pools.values_mut().all(|pool| pool.is_idle(now, peers))
    }

    /// What the others need to know.
    pub(crate) fn report(&mut self, now: Tick, peers: &Peers) -> BTreeMap<Limit, PoolReport> {
        self.pools.iter_mut().map(|(&limit, pool)| (limit, pool.report(now, peers))).collect()
    }

    /// Takes what another gateway said.
    pub(crate) fn hear(
        &mut self,
        now: Tick,
        peers: &mut Peers,
        peer: u32,
        sequence: u64,
        said: &MeterReport,
    ) {
        for (&limit, report) in &said.pools {
            let pool = self.pools.entry(limit).or_insert_with(|| Pool::new(limit, report.limit, peers, now));
            pool.hear(peer, sequence, report);
            for (life, gone) in &report.gone {
                if let Some(number) = peers.hear_of_gone(now, life, gone.age_ms) {
                    pool.hear_of_gone(number, report, gone);
                }
            }
        }
    }

    pub(crate) fn hear_nothing(&mut self, peer: u32, sequence: u64) {
        self.pools.values_mut().for_each(|pool| pool.hear_nothing(peer, sequence));
    }
}

/// How much of a limit a request with so many tokens needs.
fn amount(limit: Limit, tokens: u64) -> u64 {
    match limit {
        Limit::Concurrent | Limit::Requests => 1,
        Limit::Tokens | Limit::Day => tokens,
    }
}
