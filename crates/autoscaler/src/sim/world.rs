//! One policy's world: requests come, a gateway holds and hands them out, replicas come and go, the policy looks. It keeps the books that
//! the report is made of.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use wharf_api::demand::{DemandReport, EndpointLoad, FIRST_TOKEN_BUCKETS_MS, ServiceDemand};

use super::replica::{Event, Phase, Replica};
use super::report::{Outcome, Percentiles, Timeline, rounded};
use super::traffic::{Arrival, Z95, log_normal};
use super::{Gateway, Scenario};
use crate::{Demand, Now, Observed, Scaler};

const SERVICE: &str = "simulated/service";
/// Points of a timeline.
const POINTS: usize = 240;

pub(crate) struct World<'a> {
    scenario: &'a Scenario,
    requests: &'a [Arrival],
    scaler: Box<dyn Scaler>,
    now: f64,
    replicas: Vec<Replica>,
    created: usize,
    wanted: u32,
    /// Requests that the gateway holds, oldest first.
    held: VecDeque<usize>,
    demand: Demand,
    sequence: u64,
    counts: ServiceDemand,
    books: Books,
    /// Lent to replicas while they step, so that it is not made again.
    events: Vec<Event>,
}

/// What the report is made of.
struct Books {
    replica_seconds: f64,
    first_tokens: Vec<f64>,
    /// Requests of which it is known whether they kept the limit.
    settled: Vec<bool>,
    misses: u64,
    largest_queue: usize,
    ups: u32,
    downs: u32,
    most_replicas: usize,
    timeline: Timeline,
}

impl<'a> World<'a> {
    pub(crate) fn new(scenario: &'a Scenario, requests: &'a [Arrival], scaler: Box<dyn Scaler>) -> World<'a> {
        let initial = scenario.initial.clamp(scenario.policy.min, scenario.policy.max);
        let replicas: Vec<Replica> =
            (0..initial as usize).map(|n| Replica::new(n, scenario.engine, 0.0, Phase::Ready)).collect();
        World {
            scenario,
            requests,
            scaler,
            now: 0.0,
            created: replicas.len(),
            replicas,
            wanted: initial,
            held: VecDeque::new(),
            demand: Demand::for_policy(
                SERVICE,
                &scenario.policy,
                Now::after(scenario.begins, Duration::ZERO),
            ),
            sequence: 0,
            counts: ServiceDemand {
                first_token: vec![0; FIRST_TOKEN_BUCKETS_MS.len() + 1],
                ..ServiceDemand::default()
            },
            books: Books {
                replica_seconds: 0.0,
                first_tokens: Vec::new(),
                settled: vec![false; requests.len()],
                misses: 0,
                largest_queue: 0,
                ups: 0,
                downs: 0,
                most_replicas: 0,
                timeline: Timeline::new(scenario.duration.as_secs_f64(), POINTS),
            },
            events: Vec::new(),
        }
    }

    /// Lives through the scenario.
    pub(crate) fn run(mut self, policy: &str) -> Outcome {
        let end = self.scenario.duration.as_secs_f64();
        let Gateway { queue: _, deadline, ahead: _, line_every } = self.scenario.gateway;
        let (deadline, line_every) = (deadline.as_secs_f64(), line_every.as_secs_f64());
        let period = self.scaler.period().as_secs_f64();
        let (mut next_request, mut next_line, mut next_look) = (0, 0.0, 0.0);
        loop {
            let arrives = self.requests.get(next_request).map_or(f64::INFINITY, |r| r.at);
            let expires = self.held.front().map_or(f64::INFINITY, |r| self.requests[*r].at + deadline);
            let steps = self.replicas.iter().map(Replica::next).fold(f64::INFINITY, f64::min);
            let to = arrives.min(expires).min(steps).min(next_line).min(next_look);
            if to >= end {
                self.advance(end);
                break;
            }
            self.advance(to);
            if expires <= to
                && let Some(request) = self.held.pop_front()
            {
                self.counts.failed += 1;
                self.miss(request);
            }
            if arrives <= to {
                self.arrive(next_request);
                next_request += 1;
            }
            if next_line <= to {
                next_line = to + line_every;
                self.line();
            }
            if next_look <= to {
                next_look = to + period;
                self.look();
            }
        }
        self.outcome(policy)
    }

    /// Everything that replicas do until `to`.
    fn advance(&mut self, to: f64) {
        let length = (to - self.now).max(0.0);
        self.books.replica_seconds += length * self.replicas.len() as f64;
        self.books.timeline.spend(self.now, length, self.replicas.len(), self.held.len());
        self.now = to;
        let mut events = std::mem::take(&mut self.events);
        for replica in &mut self.replicas {
            replica.step(to, self.requests, &mut events);
        }
        let changed = !events.is_empty();
        for event in events.drain(..) {
            match event {
                Event::FirstToken(request) => self.first_token(request),
                Event::Done => self.counts.answered += 1,
            }
        }
        self.events = events;
        self.replicas.retain(|r| r.phase != Phase::Draining || r.load() > 0);
        if changed || !self.held.is_empty() {
            self.hand_out();
        }
    }

    fn arrive(&mut self, request: usize) {
        self.counts.arrived += 1;
        if let Some(replica) = self.place() {
            self.replicas[replica].take(request, self.requests);
        } else if self.held.len() >= self.scenario.gateway.queue {
            self.counts.overflowed += 1;
            self.miss(request);
        } else {
            self.held.push_back(request);
            self.books.largest_queue = self.books.largest_queue.max(self.held.len());
            if self.held.len() == 1 {
                self.line();
            }
        }
    }

    fn hand_out(&mut self) {
        while let Some(&request) = self.held.front() {
            let Some(replica) = self.place() else { return };
            self.held.pop_front();
            self.replicas[replica].take(request, self.requests);
        }
    }

    /// The ready replica with the least to do, if it may be given more.
    fn place(&self) -> Option<usize> {
        let most = self.scenario.engine.max_batch + self.scenario.gateway.ahead;
        let ready = self.replicas.iter().enumerate().filter(|(_, r)| r.phase == Phase::Ready);
        let (least, replica) = ready.min_by_key(|(_, r)| r.load())?;
        (replica.load() < most).then_some(least)
    }

    fn first_token(&mut self, request: usize) {
        let took = self.now - self.requests[request].at;
        self.books.first_tokens.push(took);
        self.books.settled[request] = true;
        let ms = took * 1000.0;
        let bucket = FIRST_TOKEN_BUCKETS_MS.iter().take_while(|b| f64::from(**b) < ms).count();
        self.counts.first_token[bucket] += 1;
        if took > self.scenario.ttft_limit.as_secs_f64() {
            self.miss(request);
        }
    }

    fn miss(&mut self, request: usize) {
        self.books.settled[request] = true;
        self.books.misses += 1;
        self.books.timeline.miss(self.requests[request].at);
    }

    /// The gateway says how it is.
    fn line(&mut self) {
        self.sequence += 1;
        let serving = self.replicas.iter().filter(|r| !matches!(r.phase, Phase::Starting { .. }));
        let endpoints: BTreeMap<String, EndpointLoad> = serving
            .clone()
            .map(|r| {
                let (running, waiting) = (r.running_now(), r.waiting_now());
                (
                    r.name.clone(),
                    EndpointLoad { ready: r.phase == Phase::Ready, running, waiting, kv_cache: r.kv_share() },
                )
            })
            .collect();
        let kv = serving.clone().map(|r| r.kv_share()).sum::<f64>() * self.scenario.engine.kv_tokens as f64;
        let oldest = self.held.front().map_or(0.0, |r| self.now - self.requests[*r].at);
        let service = ServiceDemand {
            in_flight: serving.map(|r| u64::from(r.load())).sum(),
            queued: self.held.len() as u64,
            tokens_in_flight: kv as u64,
            oldest_wait_ms: (oldest * 1000.0) as u64,
            endpoints,
            ..self.counts.clone()
        };
        let report = DemandReport {
            gateway: "simulated".to_owned(),
            epoch: u64::MAX,
            sequence: self.sequence,
            lease_ms: (self.scenario.gateway.line_every.as_millis() as u64).saturating_mul(5),
            services: BTreeMap::from([(SERVICE.to_owned(), service)]),
        };
        let now = self.moment();
        self.demand.observe(&report, now);
        if self.scaler.reacts() {
            self.look();
        }
    }

    /// The policy says how many replicas there should be, and so it is.
    fn look(&mut self) {
        let of = |phase: fn(&Phase) -> bool| self.replicas.iter().filter(|r| phase(&r.phase)).count() as u32;
        let ready = of(|p| *p == Phase::Ready);
        let starting = of(|p| matches!(p, Phase::Starting { .. }));
        let now = self.moment();
        let seen = Observed { wanted: self.wanted, ready, starting, load: self.demand.load(now) };
        let replicas = self.scaler.decide(&seen, now).replicas;
        self.books.ups += u32::from(replicas > self.wanted);
        self.books.downs += u32::from(replicas < self.wanted);
        self.wanted = replicas;
        for _ in ready + starting..replicas {
            let ready_at = self.now + start_takes(self.scenario, self.created);
            self.replicas.push(Replica::new(
                self.created,
                self.scenario.engine,
                self.now,
                Phase::Starting { ready_at },
            ));
            self.created += 1;
        }
        for _ in replicas..ready + starting {
            self.take_one_away();
        }
        self.books.most_replicas = self.books.most_replicas.max(self.replicas.len());
    }

    /// What is not ready goes first, youngest first; then what has the least to do.
    fn take_one_away(&mut self) {
        let starting = self.replicas.iter().rposition(|r| matches!(r.phase, Phase::Starting { .. }));
        if let Some(starting) = starting {
            self.replicas.remove(starting);
            return;
        }
        let ready = self.replicas.iter_mut().filter(|r| r.phase == Phase::Ready);
        if let Some(replica) = ready.min_by_key(|r| r.load()) {
            replica.phase = Phase::Draining;
        }
        self.replicas.retain(|r| r.phase != Phase::Draining || r.load() > 0);
    }

    fn moment(&self) -> Now {
        Now::after(self.scenario.begins, Duration::from_secs_f64(self.now))
    }

    fn outcome(mut self, policy: &str) -> Outcome {
        let limit = self.scenario.ttft_limit.as_secs_f64();
        let given = self.replicas.iter().map(|r| u64::from(r.load())).sum::<u64>();
        // Who still waits, and has waited too long, has missed the limit too.
        let arrived = self.counts.arrived as usize;
        for request in 0..arrived {
            if !self.books.settled[request] && self.now - self.requests[request].at > limit {
                self.miss(request);
            }
        }
        self.books.first_tokens.sort_by(f64::total_cmp);
        Outcome {
            policy: policy.to_owned(),
            replica_seconds: rounded(self.books.replica_seconds),
            arrived: self.counts.arrived,
            answered: self.counts.answered,
            refused: self.counts.overflowed,
            timed_out: self.counts.failed,
            open: given + self.held.len() as u64,
            ttft_misses: self.books.misses,
            ttft_s: Percentiles::of(&self.books.first_tokens),
            largest_queue: self.books.largest_queue as u64,
            most_replicas: self.books.most_replicas as u32,
            ups: self.books.ups,
            downs: self.books.downs,
            timeline: self.books.timeline.rounded(),
        }
    }
}

/// How long the n-th replica takes to be ready: the same under every policy.
fn start_takes(scenario: &Scenario, number: usize) -> f64 {
    let mut rng = Rng::with_seed(scenario.seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (median, p95) = (scenario.start.median.as_secs_f64(), scenario.start.p95.as_secs_f64());
    log_normal(&mut rng, median, (p95 / median).ln().max(0.0) / Z95)
}
