//! Picking: who may take the request, which version's turn it is, who costs least.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{NoEndpoint, Pick, Request, SESSIONS, Service, Ticket};
use crate::Now;
use crate::breaker::Admits;
use crate::endpoint::Known;
use crate::index::Capacity;
use crate::policy::{Candidate, Setting};

/// Why an endpoint cannot take a request, from the least to the most promising.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refusal {
    NotReady,
    Tried,
    Broken(Option<Now>),
    Full(Option<Now>),
}

impl Service {
    /// Where the request goes. It counts as in flight there until its ticket is finished.
    pub fn pick(&mut self, request: &Request<'_>, now: Now) -> Result<Pick, NoEndpoint> {
        let mut possible = self.possible(request, now)?;
        let colour = {
            let slots = &self.slots;
            let can = |colour: &str| possible.iter().any(|&slot| colour_of(slots, slot) == Some(colour));
            self.shares.choose(request.session, can).map(str::to_owned)
        };
        if let Some(colour) = colour {
            possible.retain(|&slot| colour_of(&self.slots, slot) == Some(&colour));
        }
        let chosen = self.cheapest(&possible, request, now).ok_or(NoEndpoint::Nobody)?;
        Ok(self.take(chosen, request, now))
    }

    /// Who could take the request, the cheapest first, whatever the shares of traffic; nothing is counted.
    pub fn ranked(&mut self, request: &Request<'_>, now: Now) -> Vec<String> {
        let Ok(possible) = self.possible(request, now) else { return Vec::new() };
        let mut costs = self.costs(&possible, request, now);
        costs.sort_by(|(a, one), (b, two)| a.total_cmp(b).then(one.picked.cmp(&two.picked)));
        let address = |candidate: &Candidate| {
            self.slots[candidate.slot as usize].as_ref().map(|known| known.endpoint.address.clone())
        };
        costs.iter().filter_map(|(_, candidate)| address(candidate)).collect()
    }

    /// Slots of all endpoints but these, for [`Request::tried`]; `None` if these are none of ours.
    pub fn all_but(&self, addresses: &[String]) -> Option<Vec<u32>> {
        let is_among = |known: &Known| addresses.contains(&known.endpoint.address);
        if !self.slots.iter().flatten().any(is_among) {
            return None;
        }
        let outside =
            self.slots.iter().enumerate().filter(|(_, known)| !known.as_ref().is_some_and(is_among));
        Some(outside.map(|(slot, _)| slot as u32).collect())
    }

    /// Slots that may take the request.
    fn possible(&self, request: &Request<'_>, now: Now) -> Result<Vec<u32>, NoEndpoint> {
        let ejected = self.slots.iter().flatten().filter(|known| known.breaker.is_open()).count();
        let total = self.slots.iter().flatten().count();
        // One may always be left alone; with more, not all at once.
        let may_eject = ((total as f64 * self.policy.breaker.max_ejected) as usize).max(1);
        let eject = ejected <= may_eject;
        let mut possible = Vec::with_capacity(total);
        let mut refusals = Vec::new();
        for (slot, known) in self.slots.iter().enumerate() {
            let Some(known) = known else { continue };
            match self.refusal(slot as u32, known, request, eject, now) {
                None => possible.push(slot as u32),
                Some(refusal) => refusals.push(refusal),
            }
        }
        if possible.is_empty() { Err(summary(&refusals)) } else { Ok(possible) }
    }

    fn refusal(
        &self,
        slot: u32,
        known: &Known,
        request: &Request<'_>,
        eject: bool,
        now: Now,
    ) -> Option<Refusal> {
        let endpoint = &known.endpoint;
        if !endpoint.ready || endpoint.draining || known.unhealthy {
            return Some(Refusal::NotReady);
        }
        if request.tried.contains(&slot) {
            return Some(Refusal::Tried);
        }
        if let Admits::Nothing(until) = known.breaker.admits(now)
            && eject
        {
            return Some(Refusal::Broken(until));
        }
        if known.saturated_until > now {
            return Some(Refusal::Full(Some(known.saturated_until)));
        }
        if self.policy.max_in_flight.is_some_and(|most| known.in_flight >= most) {
            return Some(Refusal::Full(None));
        }
        None
    }

    fn cheapest(&mut self, possible: &[u32], request: &Request<'_>, now: Now) -> Option<u32> {
        let costs = self.costs(possible, request, now);
        let best =
            costs.iter().min_by(|(a, one), (b, two)| a.total_cmp(b).then(one.picked.cmp(&two.picked)))?;
        Some(best.1.slot)
    }

    fn costs(&mut self, possible: &[u32], request: &Request<'_>, now: Now) -> Vec<(f64, Candidate)> {
        let mut matched = std::mem::take(&mut self.matched);
        matched.resize(self.slots.len(), 0);
        self.index.matches(&request.prompt.blocks, &mut matched);
        let session = request.session.and_then(|session| self.place_of(session, possible));
        let candidates: Vec<Candidate> = possible
            .iter()
            .filter_map(|&slot| {
                let known = self.slots[slot as usize].as_ref()?;
                Some(self.candidate(slot, known, matched[slot as usize], session, request, now))
            })
            .collect();
        self.matched = matched;
        let total: f64 = candidates
            .iter()
            .map(|candidate| f64::from(candidate.in_flight) + f64::from(candidate.others))
            .sum();
        let mean = (total + 1.0) / candidates.len().max(1) as f64;
        let setting = Setting {
            weights: &self.policy.weights,
            tokens: request.tokens as f64,
            mean_tokens: self.mean_tokens,
            hot_spot: (mean * self.policy.hot_spot_factor.max(1.0)).ceil() + 1.0,
        };
        candidates
            .into_iter()
            .map(|candidate| (self.policy.policy.cost(&candidate, &setting), candidate))
            .collect()
    }

    /// Where a session was, as far as this gateway knows; else where every gateway expects it if none knows better (rendezvous hashing,
    /// Thaler and Ravishankar 1998), so that gateways which know nothing of each other send its turns to the same endpoint.
    fn place_of(&self, session: u64, possible: &[u32]) -> Option<(u32, u32)> {
        if let Some(place) = self.sessions.get(&session) {
            return Some(*place);
        }
        let place = |slot: &u32| {
            let known = self.slots[*slot as usize].as_ref()?;
            let rank = xxh3_64_with_seed(&known.address_hash.to_le_bytes(), session);
            Some((rank, (*slot, known.generation)))
        };
        possible.iter().filter_map(place).max().map(|(_, place)| place)
    }

    fn candidate(
        &self,
        slot: u32,
        known: &Known,
        matched: u32,
        session: Option<(u32, u32)>,
        request: &Request<'_>,
        now: Now,
    ) -> Candidate {
        let load = known.fresh_load(now, self.load_max_age());
        let cached = match request.prompt.bytes {
            0 => 0.0,
            bytes => request.prompt.covered(matched as usize) as f64 / bytes as f64,
        };
        Candidate {
            slot,
            in_flight: known.in_flight,
            others: load.map_or(0, |_| known.others),
            waiting: load.map_or(0, |load| load.waiting),
            pending_tokens: known.pending_tokens,
            kv_cache: load.map_or(0.0, |load| load.kv_cache),
            cached,
            has_adapter: request
                .adapter
                .is_none_or(|name| load.is_some_and(|load| load.adapters.iter().any(|known| known == name))),
            has_session: session == Some((slot, known.generation)),
            picked: known.picked,
        }
    }

    /// Counts the request at the endpoint and remembers what the endpoint will have cached.
    fn take(&mut self, slot: u32, request: &Request<'_>, now: Now) -> Pick {
        self.picks += 1;
        self.mean_tokens += (request.tokens as f64 - self.mean_tokens) * super::MEAN_RATE;
        let matched = self.matched.get(slot as usize).copied().unwrap_or(0) as usize;
        let cached = match request.prompt.bytes {
            0 => 0.0,
            bytes => request.prompt.covered(matched) as f64 / bytes as f64,
        };
        let bytes_per_token = self.bytes_per_token;
        let known = self.slots[slot as usize].as_mut().expect("the slot was a candidate");
        let pending = (request.tokens as f64 * (1.0 - cached)).ceil() as u64;
        known.in_flight += 1;
        known.picked = self.picks;
        known.pending_tokens += pending;
        let tokens = request.tokens + request.answer_tokens;
        known.tokens += tokens;
        let generation = known.generation;
        let kv_tokens = known.load.as_ref().and_then(|(load, _)| load.kv_tokens);
        let ticket = Ticket { slot, generation, pending, tokens, probe: known.breaker.sent(now) };
        let pick = Pick {
            address: known.endpoint.address.clone(),
            colour: known.endpoint.colour.clone(),
            cached,
            ticket,
        };
        if self.policy.policy.uses_prefixes() {
            let bytes = kv_tokens.map_or(u64::MAX, |tokens| (tokens as f64 * bytes_per_token) as u64);
            let capacity = Capacity { blocks: self.policy.remembered_blocks, bytes };
            self.index.insert(slot, &request.prompt.blocks, capacity);
        }
        if let Some(session) = request.session {
            self.remember(session, (slot, generation));
        }
        pick
    }

    fn remember(&mut self, session: u64, place: (u32, u32)) {
        if self.sessions.insert(session, place).is_none() {
            self.session_order.push_back(session);
            if self.session_order.len() > SESSIONS
                && let Some(oldest) = self.session_order.pop_front()
            {
                self.sessions.remove(&oldest);
            }
        }
    }
}

fn colour_of(slots: &[Option<Known>], slot: u32) -> Option<&str> {
    slots[slot as usize].as_ref().map(|known| known.endpoint.colour.as_str())
}

/// What to say when nobody can: the refusal that passes soonest.
fn summary(refusals: &[Refusal]) -> NoEndpoint {
    let earliest = |pick: fn(&Refusal) -> Option<Option<Now>>| {
        let times: Vec<Option<Now>> = refusals.iter().filter_map(pick).collect();
        (!times.is_empty()).then(|| times.into_iter().flatten().min())
    };
    let full = earliest(|refusal| match refusal {
        Refusal::Full(until) => Some(*until),
        Refusal::NotReady | Refusal::Tried | Refusal::Broken(_) => None,
    });
    let broken = earliest(|refusal| match refusal {
        Refusal::Broken(until) => Some(*until),
        Refusal::NotReady | Refusal::Tried | Refusal::Full(_) => None,
    });
    match (full, broken) {
        (Some(until), _) => NoEndpoint::Full(until),
        _ if refusals.contains(&Refusal::Tried) => NoEndpoint::Tried,
        (None, Some(until)) => NoEndpoint::Broken(until),
        (None, None) if refusals.is_empty() => NoEndpoint::Nobody,
        (None, None) => NoEndpoint::NotReady,
    }
}
