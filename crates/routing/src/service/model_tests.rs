//! Random lives of a service beside a plain list of what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::PolicyName;

const NAMES: u8 = 6;

/// Something that happens to a service.
#[derive(Clone, Debug)]
enum Step {
    /// These endpoints exist: whether each of the names does, is ready, drains.
    Endpoints(Vec<(bool, bool, bool)>),
    /// A request with this prompt, session, adapter, and this many tickets of before tried.
    Pick {
        prompt: u8,
        length: usize,
        session: Option<u8>,
        adapter: bool,
        tried: usize,
    },
    FirstByte(usize),
    Finish(usize, u8),
    Reported {
        name: u8,
        running: u32,
        waiting: u32,
        kv_cache: f64,
    },
    Checked {
        name: u8,
        healthy: bool,
    },
    Restarted(u8),
    Later(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let one = (prop::bool::weighted(0.8), prop::bool::weighted(0.9), prop::bool::weighted(0.1));
    prop_oneof![
        1 => prop::collection::vec(one, usize::from(NAMES)).prop_map(Step::Endpoints),
        8 => (0u8..5, 0usize..2000, prop::option::of(0u8..4), any::<bool>(), 0usize..3).prop_map(
            |(prompt, length, session, adapter, tried)| Step::Pick { prompt, length, session, adapter, tried }
        ),
        2 => any::<usize>().prop_map(Step::FirstByte),
        5 => (any::<usize>(), 0u8..4).prop_map(|(which, how)| Step::Finish(which, how)),
        2 => (0..NAMES, 0u32..40, 0u32..40, -1.0f64..2.0)
            .prop_map(|(name, running, waiting, kv_cache)| Step::Reported { name, running, waiting, kv_cache }),
        1 => (0..NAMES, any::<bool>()).prop_map(|(name, healthy)| Step::Checked { name, healthy }),
        1 => (0..NAMES).prop_map(Step::Restarted),
        1 => any::<u16>().prop_map(Step::Later),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let names = prop::sample::select(vec![PolicyName::Prefix, PolicyName::LeastLoad, PolicyName::RoundRobin]);
    (names, prop::option::of(1u32..4), 1.0f64..4.0).prop_map(|(policy, max_in_flight, hot_spot_factor)| {
        Policy { policy, max_in_flight, hot_spot_factor, remembered_blocks: 20, ..Policy::default() }
    })
}

/// An endpoint as the test knows it.
#[derive(Clone, Copy)]
struct Seen {
    takes: bool,
    healthy: bool,
    /// Changes when the endpoint comes back after it was gone.
    life: u32,
}

#[derive(Default)]
struct Model {
    now: Now,
    seen: BTreeMap<String, Seen>,
    lives: u32,
    /// Tickets and where they went.
    open: Vec<(Ticket, String, u32)>,
}

impl Model {
    fn endpoints(&mut self, flags: &[(bool, bool, bool)]) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for (name, &(exists, ready, draining)) in flags.iter().enumerate() {
            let name = format!("e{name}");
            if !exists {
                self.seen.remove(&name);
                continue;
            }
            self.lives += 1;
            let new = Seen { takes: true, healthy: true, life: self.lives };
            self.seen.entry(name.clone()).or_insert(new).takes = ready && !draining;
            endpoints.push(Endpoint { ready, draining, ..Endpoint::ready(name, "blue") });
        }
        endpoints
    }

    fn in_flight(&self) -> BTreeMap<&str, u32> {
        let mut counts: BTreeMap<&str, u32> = self.seen.keys().map(|name| (name.as_str(), 0)).collect();
        for (_, name, life) in &self.open {
            if self.seen.get(name).is_some_and(|seen| seen.life == *life) {
                *counts.entry(name).or_default() += 1;
            }
        }
        counts
    }

    fn does(&mut self, service: &mut Service, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Endpoints(flags) => service.set_endpoints(&self.endpoints(&flags)),
            Step::Pick { prompt, length, session, adapter, tried } => {
                let prompt = Prompt::new(0, [&vec![prompt; length][..]]);
                let tried: Vec<u32> =
                    self.open.iter().rev().take(tried).map(|(ticket, ..)| ticket.slot).collect();
                let request = Request {
                    prompt: &prompt,
                    tokens: service.estimate(length),
                    answer_tokens: 10,
                    adapter: adapter.then_some("sql"),
                    session: session.map(u64::from),
                    tried: &tried,
                };
                if let Ok(pick) = service.pick(&request, self.now) {
                    let seen = self.seen.get(&pick.address).copied();
                    let seen = seen.ok_or_else(|| TestCaseError::fail("picked one that is gone"))?;
                    prop_assert!(seen.takes && seen.healthy, "picked {}, which takes nothing", pick.address);
                    prop_assert!(!tried.contains(&pick.ticket.slot), "picked one that was tried");
                    prop_assert!((0.0..=1.0).contains(&pick.cached));
                    self.open.push((pick.ticket, pick.address, seen.life));
                }
            }
            Step::FirstByte(which) if !self.open.is_empty() => {
                let which = which % self.open.len();
                service.first_byte(&mut self.open[which].0);
            }
            Step::Finish(which, how) if !self.open.is_empty() => {
                let (ticket, ..) = self.open.swap_remove(which % self.open.len());
                let outcomes = [
                    Outcome::Answered,
                    Outcome::Failed,
                    Outcome::Unknown,
                    Outcome::Saturated(Duration::from_secs(1)),
                ];
                service.finish(ticket, outcomes[usize::from(how)], self.now);
            }
            Step::FirstByte(_) | Step::Finish(..) => {}
            Step::Reported { name, running, waiting, kv_cache } => {
                let load = Load { running, waiting, kv_cache, kv_tokens: Some(500), ..Load::default() };
                service.reported(&format!("e{name}"), load, self.now);
            }
            Step::Checked { name, healthy } => {
                let name = format!("e{name}");
                service.checked(&name, healthy);
                if let Some(seen) = self.seen.get_mut(&name) {
                    seen.healthy = healthy;
                }
            }
            Step::Restarted(name) => service.restarted(&format!("e{name}")),
            Step::Later(millis) => self.now += Duration::from_millis(u64::from(millis)),
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn counts_what_is_open_and_picks_only_who_can(policy in policy(), steps in prop::collection::vec(step(), 1..120)) {
        let limit = policy.max_in_flight;
        let mut service = Service::new(policy);
        let mut model = Model::default();
        model.does(&mut service, Step::Endpoints(vec![(true, true, false); usize::from(NAMES)]))?;
        for step in steps {
            model.does(&mut service, step)?;
            let states = service.endpoints(model.now);
            let counted: BTreeMap<&str, u32> =
                states.iter().map(|state| (state.address.as_str(), state.in_flight)).collect();
            prop_assert_eq!(&counted, &model.in_flight());
            prop_assert!(counted.values().all(|count| limit.is_none_or(|limit| *count <= limit)));
        }
        for (ticket, ..) in model.open.drain(..) {
            service.finish(ticket, Outcome::Answered, model.now);
        }
        prop_assert_eq!(service.in_flight(), 0);
        for state in service.endpoints(model.now) {
            prop_assert_eq!(state.tokens, 0);
        }
    }

    /// Without sessions, after any number of requests, every version has had its share to within one request for each other version.
    #[test]
    fn shares_are_kept_to_within_one(weights in prop::collection::vec(0u32..100, 2..5), requests in 1usize..300) {
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        let mut service = Service::new(Policy::default());
        let colours: Vec<String> = (0..weights.len()).map(|number| format!("c{number}")).collect();
        let endpoints: Vec<Endpoint> =
            (0..2 * weights.len()).map(|i| Endpoint::ready(format!("e{i}"), colours[i / 2].clone())).collect();
        service.set_endpoints(&endpoints);
        let shares: Vec<Share> = colours.iter().zip(&weights)
            .map(|(colour, weight)| Share { colour: colour.clone(), weight: *weight })
            .collect();
        service.set_traffic(&shares);
        let prompt = Prompt::new(0, [&[1u8; 300][..]]);
        let mut counts = vec![0u32; weights.len()];
        for _ in 0..requests {
            let request =
                Request { prompt: &prompt, tokens: 75, answer_tokens: 1, adapter: None, session: None, tried: &[] };
            let pick = service.pick(&request, Now::ZERO).expect("all can");
            counts[colours.iter().position(|colour| *colour == pick.colour).expect("it has a colour")] += 1;
            service.finish(pick.ticket, Outcome::Answered, Now::ZERO);
        }
        let total: u32 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(&weights) {
            let wanted = requests as f64 * f64::from(*weight) / f64::from(total);
            prop_assert!((f64::from(*count) - wanted).abs() < 1.0 + 1e-9, "{:?} of {:?}", counts, weights);
        }
    }
}

#[test]
fn sessions_beyond_the_limit_are_forgotten_and_the_others_kept() {
    let mut service = Service::new(Policy::default());
    service.set_endpoints(&[Endpoint::ready("e0", "blue")]);
    let prompt = Prompt::default();
    let mut places = BTreeSet::new();
    for session in 0..(SESSIONS as u64 + 10) {
        let request = Request {
            prompt: &prompt,
            tokens: 1,
            answer_tokens: 1,
            adapter: None,
            session: Some(session),
            tried: &[],
        };
        let pick = service.pick(&request, Now::ZERO).unwrap();
        places.insert(pick.address);
        service.finish(pick.ticket, Outcome::Answered, Now::ZERO);
    }
    assert_eq!((places.len(), service.sessions.len()), (1, SESSIONS));
    assert!(!service.sessions.contains_key(&9) && service.sessions.contains_key(&10));
}
