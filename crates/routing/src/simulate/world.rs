//! The clock, the gateways and everything between conversations and engines.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::replica::{Event, Job, Replica, adapter_name};
use super::report::{Outcome, imbalance, mean, percentile};
use super::traffic::{Conversation, Turn};
use super::{Change, Scenario};
use crate::service::Outcome as Ended;
use crate::{Endpoint, Now, Policy, Request, Service, Ticket};

/// Something that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Turn { conversation: usize, turn: usize },
    StepEnds { place: usize },
    Metrics,
    Change { index: usize },
}

/// An engine and where it stands.
struct Place {
    replica: Replica,
    state: State,
    stepping: bool,
    requests: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Draining,
    Dead,
    Gone,
}

/// A request on its way.
struct Asked {
    conversation: usize,
    turn: usize,
    gateway: usize,
    arrived: Now,
    first: Option<Now>,
    ended: Option<Now>,
    ticket: Option<Ticket>,
    tried: Vec<u32>,
    cached: u32,
    expected: f64,
    broken: bool,
}

pub(super) struct World<'a> {
    scenario: &'a Scenario,
    conversations: &'a [Conversation],
    policy: &'a Policy,
    now: Now,
    due: BinaryHeap<Reverse<(Now, u64, Due)>>,
    sequence: u64,
    places: Vec<Place>,
    /// Those that were replaced stay for the requests that they have.
    gateways: Vec<Service>,
    asked: Vec<Asked>,
    held: VecDeque<usize>,
    /// Turns that have not ended.
    open: usize,
}

impl<'a> World<'a> {
    pub(super) fn new(
        scenario: &'a Scenario,
        conversations: &'a [Conversation],
        conversation_seconds: f64,
        policy: &'a Policy,
    ) -> World<'a> {
        let mut world = World {
            scenario,
            conversations,
            policy,
            now: Now::ZERO,
            due: BinaryHeap::new(),
            sequence: 0,
            places: Vec::new(),
            gateways: Vec::new(),
            asked: Vec::new(),
            held: VecDeque::new(),
            open: conversations.iter().map(|conversation| conversation.turns.len()).sum(),
        };
        (0..scenario.engines.max(1)).for_each(|_| world.join());
        world.start_gateways();
        for (index, conversation) in conversations.iter().enumerate() {
            let at = after(Now::ZERO, conversation.begins * conversation_seconds);
            world.at(at, Due::Turn { conversation: index, turn: 0 });
        }
        for (index, change) in scenario.changes.iter().enumerate() {
            world.at(after(Now::ZERO, change.at_seconds), Due::Change { index });
        }
        world.at(Now::ZERO, Due::Metrics);
        world
    }

    pub(super) fn run(mut self, name: &str) -> Outcome {
        while self.open > 0
            && let Some(Reverse((at, _, due))) = self.due.pop()
        {
            self.now = at;
            match due {
                Due::Turn { conversation, turn } => self.arrive(conversation, turn),
                Due::StepEnds { place } => self.end_step(place),
                Due::Metrics => self.read_metrics(),
                Due::Change { index } => self.change(self.scenario.changes[index].change),
            }
        }
        self.outcome(name)
    }

    fn at(&mut self, at: Now, due: Due) {
        self.sequence += 1;
        self.due.push(Reverse((at, self.sequence, due)));
    }

    fn join(&mut self) {
        let replica = Replica::new(self.scenario.engine);
        self.places.push(Place { replica, state: State::Ready, stepping: false, requests: 0 });
    }

    fn start_gateways(&mut self) {
        for _ in 0..self.scenario.gateways.max(1) {
            self.gateways.push(Service::new(self.policy.clone()));
        }
        self.discover();
    }

    /// Tells every gateway which engines there are.
    fn discover(&mut self) {
        let endpoints: Vec<Endpoint> = (self.places.iter().enumerate())
            .filter(|(_, place)| place.state != State::Gone)
            .map(|(index, place)| Endpoint {
                draining: place.state == State::Draining,
                ..Endpoint::ready(index.to_string(), "blue")
            })
            .collect();
        self.gateways.iter_mut().for_each(|gateway| gateway.set_endpoints(&endpoints));
    }

    fn arrive(&mut self, conversation: usize, turn: usize) {
        let newest = self.scenario.gateways.max(1) as usize;
        let gateway = self.gateways.len() - 1 - self.asked.len() % newest;
        self.asked.push(Asked {
            conversation,
            turn,
            gateway,
            arrived: self.now,
            first: None,
            ended: None,
            ticket: None,
            tried: Vec::new(),
            cached: 0,
            expected: 0.0,
            broken: false,
        });
        self.send(self.asked.len() - 1);
    }

    fn turn(&self, asked: &Asked) -> Turn {
        self.conversations[asked.conversation].turns[asked.turn]
    }

    /// Picks an engine until one takes the request, or holds it.
    fn send(&mut self, id: usize) {
        loop {
            let turn = self.turn(&self.asked[id]);
            let asked = &mut self.asked[id];
            let conversation = &self.conversations[asked.conversation];
            let gateway = &mut self.gateways[asked.gateway];
            let prompt = conversation.prompt(turn.bytes);
            let adapter = conversation.adapter.map(adapter_name);
            let request = Request {
                prompt: &prompt,
                tokens: gateway.estimate(turn.bytes),
                // What clients allow, not what they get.
                answer_tokens: 256,
                adapter: adapter.as_deref(),
                session: conversation.session,
                tried: &asked.tried,
            };
            let Ok(pick) = gateway.pick(&request, self.now) else {
                asked.tried.clear();
                self.held.push_back(id);
                return;
            };
            let index: usize = pick.address.parse().expect("addresses are indices here");
            let place = &mut self.places[index];
            if matches!(place.state, State::Dead | State::Gone) {
                asked.tried.push(pick.ticket.slot);
                gateway.finish(pick.ticket, Ended::Failed, self.now);
                continue;
            }
            asked.expected = pick.cached;
            asked.ticket = Some(pick.ticket);
            place.requests += 1;
            place.replica.push(Job::new(id, conversation, &turn));
            self.begin_step(index);
            return;
        }
    }

    fn begin_step(&mut self, index: usize) {
        let place = &mut self.places[index];
        if !place.stepping
            && let Some(seconds) = place.replica.begin()
        {
            place.stepping = true;
            let at = after(self.now, seconds);
            self.at(at, Due::StepEnds { place: index });
        }
    }

    fn end_step(&mut self, index: usize) {
        let place = &mut self.places[index];
        place.stepping = false;
        if place.state == State::Dead || place.state == State::Gone {
            return;
        }
        let mut events = Vec::new();
        place.replica.end(&mut events);
        for event in events {
            match event {
                Event::First { id, cached } => {
                    let turn = self.turn(&self.asked[id]);
                    let asked = &mut self.asked[id];
                    asked.first = Some(self.now);
                    asked.cached = cached;
                    let gateway = &mut self.gateways[asked.gateway];
                    gateway.measured(turn.bytes, u64::from(turn.prompt));
                    if let Some(ticket) = &mut asked.ticket {
                        gateway.first_byte(ticket);
                    }
                }
                Event::Last { id } => self.ended(id, Ended::Answered),
            }
        }
        self.begin_step(index);
        let place = &mut self.places[index];
        if place.state == State::Draining && place.replica.is_empty() {
            place.state = State::Gone;
            self.discover();
        }
        self.send_held();
    }

    fn ended(&mut self, id: usize, how: Ended) {
        let asked = &mut self.asked[id];
        asked.ended = Some(self.now);
        if let Some(ticket) = asked.ticket.take() {
            self.gateways[asked.gateway].finish(ticket, how, self.now);
        }
        self.open -= 1;
        let (conversation, turn) = (asked.conversation, asked.turn + 1);
        if let Some(next) = self.conversations[conversation].turns.get(turn) {
            self.at(after(self.now, next.gap), Due::Turn { conversation, turn });
        }
    }

    fn send_held(&mut self) {
        for _ in 0..self.held.len() {
            let Some(id) = self.held.pop_front() else { return };
            let before = self.held.len();
            self.send(id);
            if self.held.len() > before {
                // First come, first served.
                self.held.rotate_right(1);
                return;
            }
        }
    }

    fn read_metrics(&mut self) {
        if self.places.iter().any(|place| place.state == State::Dead) {
            for place in self.places.iter_mut().filter(|place| place.state == State::Dead) {
                place.state = State::Gone;
            }
            self.discover();
        }
        for (index, place) in self.places.iter().enumerate().filter(|(_, place)| place.state != State::Gone) {
            let (address, load) = (index.to_string(), place.replica.load());
            for gateway in &mut self.gateways {
                gateway.reported(&address, load.clone(), self.now);
            }
        }
        self.send_held();
        self.at(after(self.now, self.scenario.metrics_seconds.max(1e-3)), Due::Metrics);
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Joins => {
                self.join();
                self.discover();
            }
            Change::Drains(index) => self.drain(index as usize),
            Change::Dies(index) => self.die(index as usize),
            Change::GatewaysRestart => self.start_gateways(),
        }
        self.send_held();
    }

    fn drain(&mut self, index: usize) {
        if let Some(place) = self.places.get_mut(index)
            && place.state == State::Ready
        {
            place.state = if place.replica.is_empty() { State::Gone } else { State::Draining };
            self.discover();
        }
    }

    /// Who waited for a first token is sent elsewhere; who had some has a broken answer.
    fn die(&mut self, index: usize) {
        let Some(place) = self.places.get_mut(index) else { return };
        place.state = State::Dead;
        let lost = std::mem::replace(&mut place.replica, Replica::new(self.scenario.engine)).ids();
        for id in lost {
            let asked = &mut self.asked[id];
            if asked.first.is_some() {
                asked.broken = true;
                self.ended(id, Ended::Failed);
            } else if let Some(ticket) = asked.ticket.take() {
                asked.tried.push(ticket.slot);
                self.gateways[asked.gateway].finish(ticket, Ended::Failed, self.now);
                self.send(id);
            }
        }
    }

    fn outcome(&self, name: &str) -> Outcome {
        let answered: Vec<&Asked> =
            self.asked.iter().filter(|asked| asked.ended.is_some() && !asked.broken).collect();
        let since = |asked: &Asked, then: Option<Now>| {
            then.unwrap_or(self.now).saturating_sub(asked.arrived).as_secs_f64()
        };
        let waits: Vec<f64> = answered.iter().map(|asked| since(asked, asked.first)).collect();
        let third = waits.len().div_ceil(3).max(1);
        let mut ttft_thirds = [0.0; 3];
        ttft_thirds.iter_mut().zip(waits.chunks(third)).for_each(|(mine, waits)| *mine = mean(waits));
        let mut sorted = waits.clone();
        sorted.sort_by(f64::total_cmp);
        let latencies: Vec<f64> = answered.iter().map(|asked| since(asked, asked.ended)).collect();
        let began = self.asked.first().map_or(Now::ZERO, |asked| asked.arrived);
        let seconds = self.now.saturating_sub(began).as_secs_f64().max(f64::MIN_POSITIVE);
        let sum = |value: fn(&Asked, Turn) -> f64| -> f64 {
            answered.iter().map(|asked| value(asked, self.turn(asked))).sum()
        };
        let prompts = sum(|_, turn| f64::from(turn.prompt)).max(1.0);
        let stayed = self.places[..self.scenario.engines.max(1) as usize]
            .iter()
            .filter(|place| place.state == State::Ready);
        let (requests, busy): (Vec<f64>, Vec<f64>) =
            stayed.map(|place| (f64::from(place.requests), place.replica.busy)).unzip();
        Outcome {
            policy: name.to_owned(),
            answered: answered.len(),
            broken: self.asked.iter().filter(|asked| asked.broken).count(),
            left_in_flight: self.gateways.iter().map(Service::in_flight).sum(),
            ttft_mean: mean(&waits),
            ttft_p50: percentile(&sorted, 0.5),
            ttft_p95: percentile(&sorted, 0.95),
            ttft_p99: percentile(&sorted, 0.99),
            latency_mean: mean(&latencies),
            requests_per_second: answered.len() as f64 / seconds,
            tokens_per_second: sum(|_, turn| f64::from(turn.answer)) / seconds,
            cached: sum(|asked, _| f64::from(asked.cached)) / prompts,
            cached_expected: sum(|asked, turn| asked.expected * f64::from(turn.prompt)) / prompts,
            imbalance: imbalance(&requests),
            imbalance_busy: imbalance(&busy),
            ttft_thirds,
        }
    }
}

fn after(now: Now, seconds: f64) -> Now {
    now + Duration::from_secs_f64(seconds.clamp(0.0, 1e9))
}
