//! One replica in simulated time. Between two events its speed is constant, so running requests share one counter of tokens: a request is
//! done when the counter reaches where it began plus its length.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::Engine;
use super::traffic::Arrival;

/// A number that can be ordered: never NaN here.
#[derive(Clone, Copy, PartialEq)]
struct At(f64);

impl Eq for At {}

impl PartialOrd for At {
    fn partial_cmp(&self, other: &At) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for At {
    fn cmp(&self, other: &At) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Where a replica is in its life.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Phase {
    Starting {
        ready_at: f64,
    },
    Ready,
    /// It takes nothing new, and ends when it is empty.
    Draining,
}

/// What happened to a request; the first token says to which.
pub(crate) enum Event {
    FirstToken(usize),
    Done,
}

pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) phase: Phase,
    engine: Engine,
    waiting: VecDeque<usize>,
    /// The prompt that is read, and until when.
    prefill: Option<(usize, f64)>,
    running: BinaryHeap<Reverse<(At, usize)>>,
    /// Tokens that a request which always ran would have.
    tokens: f64,
    at: f64,
    kv_used: u64,
}

impl Replica {
    pub(crate) fn new(number: usize, engine: Engine, at: f64, phase: Phase) -> Replica {
        Replica {
            name: format!("replica-{number}"),
            phase,
            engine,
            waiting: VecDeque::new(),
            prefill: None,
            running: BinaryHeap::new(),
            tokens: 0.0,
            at,
            kv_used: 0,
        }
    }

    pub(crate) fn load(&self) -> u32 {
        self.running_now() + self.waiting_now()
    }

    pub(crate) fn running_now(&self) -> u32 {
        self.running.len() as u32 + u32::from(self.prefill.is_some())
    }

    pub(crate) fn waiting_now(&self) -> u32 {
        self.waiting.len() as u32
    }

    pub(crate) fn kv_share(&self) -> f64 {
        (self.kv_used as f64 / self.engine.kv_tokens as f64).min(1.0)
    }

    /// Takes a request at a moment up to which it has been stepped.
    pub(crate) fn take(&mut self, request: usize, requests: &[Arrival]) {
        self.waiting.push_back(request);
        self.admit(requests);
    }

    /// When something will happen next.
    pub(crate) fn next(&self) -> f64 {
        let ready = match self.phase {
            Phase::Starting { ready_at } => ready_at,
            Phase::Ready | Phase::Draining => f64::INFINITY,
        };
        let prefilled = self.prefill.map_or(f64::INFINITY, |(_, until)| until);
        let done = match self.running.peek() {
            Some(Reverse((At(end), _))) => self.at + (end - self.tokens).max(0.0) / self.speed(),
            None => f64::INFINITY,
        };
        ready.min(prefilled).min(done)
    }

    /// Lives on until `to`, which is not after [`Replica::next`].
    pub(crate) fn step(&mut self, to: f64, requests: &[Arrival], events: &mut Vec<Event>) {
        let due = self.next() <= to;
        self.tokens += (to - self.at).max(0.0) * self.speed();
        self.at = to;
        if !due {
            return;
        }
        if matches!(self.phase, Phase::Starting { ready_at } if ready_at <= to) {
            self.phase = Phase::Ready;
        }
        // A little slack: adding up small steps must not leave a request a breath short of its end for ever.
        while let Some(Reverse((At(end), request))) = self.running.peek().copied() {
            if end > self.tokens + 1e-6 {
                break;
            }
            self.running.pop();
            self.done(requests[request], events);
        }
        if let Some((request, until)) = self.prefill
            && until <= to
        {
            self.prefill = None;
            events.push(Event::FirstToken(request));
            let more = f64::from(requests[request].answer.saturating_sub(1));
            match more > 0.0 {
                true => self.running.push(Reverse((At(self.tokens + more), request))),
                false => self.done(requests[request], events),
            }
        }
        self.admit(requests);
    }

    fn done(&mut self, request: Arrival, events: &mut Vec<Event>) {
        self.kv_used = self.kv_used.saturating_sub(request.tokens());
        events.push(Event::Done);
    }

    /// Begins to read the next prompt if there is a place and memory for it.
    fn admit(&mut self, requests: &[Arrival]) {
        if self.prefill.is_some() || self.running.len() >= self.engine.max_batch as usize {
            return;
        }
        let Some(&request) = self.waiting.front() else { return };
        let needs = requests[request].tokens();
        // What is larger than the whole cache runs alone.
        if self.kv_used > 0 && self.kv_used + needs > self.engine.kv_tokens {
            return;
        }
        self.waiting.pop_front();
        self.kv_used += needs;
        let takes = f64::from(requests[request].prompt.max(1)) / self.engine.prefill_tokens_per_s;
        self.prefill = Some((request, self.at + takes));
    }

    fn speed(&self) -> f64 {
        self.engine.speed(self.running.len(), self.prefill.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When each request had its first token, and when one after the other was done.
    fn live(engine: Engine, requests: &[Arrival]) -> (Vec<f64>, Vec<f64>) {
        let mut replica = Replica::new(0, engine, 0.0, Phase::Ready);
        let (mut first, mut done) = (vec![f64::NAN; requests.len()], Vec::new());
        (0..requests.len()).for_each(|r| replica.take(r, requests));
        let mut events = Vec::new();
        while replica.next().is_finite() {
            let at = replica.next();
            replica.step(at, requests, &mut events);
            for event in events.drain(..) {
                match event {
                    Event::FirstToken(r) => first[r] = at,
                    Event::Done => done.push(at),
                }
            }
        }
        assert_eq!((replica.load(), replica.kv_used), (0, 0));
        (first, done)
    }

    fn request(prompt: u32, answer: u32) -> Arrival {
        Arrival { at: 0.0, prompt, answer }
    }

    #[test]
    fn a_lone_request_takes_its_prefill_and_its_tokens() {
        let (first, done) = live(Engine::default(), &[request(5000, 101)]);
        assert!((first[0] - 0.5).abs() < 1e-9);
        assert!((done[0] - (0.5 + 100.0 * 0.0152)).abs() < 1e-3, "{}", done[0]);
    }

    #[test]
    fn a_batch_is_slower_for_each_and_faster_for_all() {
        let requests = vec![request(1, 1001); 32];
        let (_, done) = live(Engine::default(), &requests);
        let last = done.iter().copied().fold(0.0, f64::max);
        assert!(last > 1000.0 * 0.0152 * 1.3 && last < 32.0 * 1000.0 * 0.0152 / 10.0, "{last}");
    }

    #[test]
    fn memory_and_places_let_requests_wait() {
        let engine = Engine { kv_tokens: 3000, ..Engine::default() };
        let (first, done) = live(engine, &[request(1000, 500); 3]);
        // Two fit; the third begins when the first is done.
        assert!((first[2] - (done[0] + 0.1)).abs() < 1e-6);
        let engine = Engine { max_batch: 1, ..Engine::default() };
        let (first, done) = live(engine, &[request(1000, 500); 2]);
        assert!(first[1] >= done[0] + 0.1 - 1e-6);
        // Larger than the whole cache: alone, but not for ever.
        let engine = Engine { kv_tokens: 100, ..Engine::default() };
        assert!(live(engine, &[request(1000, 5); 2]).1.iter().all(|d| d.is_finite()));
    }
}
