//! The decision: how many replicas, and why. No clock, no client, no lock; the same input gives the same answer.
//!
//! It refuses to take replicas away while it does not know: in a burst, right after a restart, without gateways, or when a target has no
//! number. It never refuses to add any within `max`.

use std::time::Duration;

use crate::Now;
use crate::asks::{Ask, There, ask, number};
use crate::changes::Changes;
use crate::extreme::Largest;
use crate::history::{Load, Window};
use crate::learn::Learned;
use crate::policy::{Policy, WarmFloor};

/// What is seen at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observed {
    /// Replicas that are asked for.
    pub wanted: u32,
    /// Replicas that take requests.
    pub ready: u32,
    /// Replicas that are there and do not take requests yet.
    pub starting: u32,
    /// The load; none while no gateway reports.
    pub load: Option<Load>,
}

/// How many replicas, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<S = State> {
    /// So many replicas there should be.
    pub replicas: u32,
    /// A sentence with the numbers.
    pub reason: String,
    /// What the next decision should know.
    pub state: S,
}

/// What a decision remembers. A fresh one never takes replicas away before its windows are full.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// What was wanted at the last look; none before the first.
    wanted: Option<u32>,
    /// What was asked for, largest; and smallest, as negative numbers.
    asked: Largest,
    asked_least: Largest,
    changes: Changes,
    panic: Option<Panic>,
    /// When somebody last called, and the requests that had come until then.
    called: Duration,
    arrived: u64,
    /// Since when the same number of replicas is ready.
    settled: Duration,
    ready: u32,
    learned: Learned,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Panic {
    until: Duration,
    replicas: u32,
}

/// Decides how many replicas there should be.
pub fn decide(state: &State, seen: &Observed, policy: &Policy, now: Now) -> Decision {
    let mut state = state.clone();
    let calls = state.look(seen, policy, now.elapsed);
    let floor = floor(policy, now);
    let Choice { replicas, why } = match &seen.load {
        None => {
            let why = "no gateway reports; nothing is taken away";
            Choice::new(seen.wanted.clamp(floor.replicas, policy.max), why.to_owned())
        }
        Some(load) => state.follow(&Look { seen, load, policy, now: now.elapsed }, &floor, calls),
    };
    Decision { replicas, reason: sentence(replicas, &why), state }
}

/// Whether somebody calls at this moment, and for how long nobody had before.
#[derive(Clone, Copy)]
struct Calls {
    now: bool,
    gap: Duration,
}

/// What a decision looks at.
#[derive(Clone, Copy)]
struct Look<'a> {
    seen: &'a Observed,
    load: &'a Load,
    policy: &'a Policy,
    now: Duration,
}

/// A number, and why; each guard may change both.
struct Choice {
    replicas: u32,
    why: String,
}

impl Choice {
    fn new(replicas: u32, why: String) -> Choice {
        Choice { replicas, why }
    }

    /// At least so many; `why` gets the words and the number so far.
    fn raise(&mut self, to: u32, why: impl Fn(&str, u32) -> String) {
        if to > self.replicas {
            *self = Choice::new(to, why(&self.why, self.replicas));
        }
    }

    /// At most so many.
    fn limit(&mut self, to: u32, why: impl Fn(&str, u32) -> String) {
        if to < self.replicas {
            *self = Choice::new(to, why(&self.why, self.replicas));
        }
    }

    /// What is awake has one replica at least.
    fn hold_floor(&mut self, look: &Look<'_>, floor: &Floor) {
        let Look { seen, load, policy, now: _ } = *look;
        self.raise(floor.replicas.max(1), |_, _| match floor.replicas {
            0 if seen.wanted == 0 && load.latest.queued == 0.0 => {
                "somebody called a sleeping service".to_owned()
            }
            0 if seen.wanted == 0 => {
                format!("{} requests wait for a sleeping service", number(load.latest.queued))
            }
            0 => format!("awake until nobody called for {} s", number(policy.idle_after.as_secs_f64())),
            _ => floor.why.clone(),
        });
    }
}

pub(crate) fn sentence(replicas: u32, reason: &str) -> String {
    let noun = if replicas == 1 { "replica" } else { "replicas" };
    format!("{replicas} {noun}: {reason}")
}

/// Fewest replicas at a moment, and who says so.
pub(crate) struct Floor {
    pub(crate) replicas: u32,
    pub(crate) why: String,
}

pub(crate) fn floor(policy: &Policy, now: Now) -> Floor {
    let scheduled =
        policy.schedules.iter().filter(|s| s.holds_at(now.wall)).map(|s| s.min()).max().unwrap_or(0);
    let replicas = policy.min.max(scheduled).min(policy.max);
    let why = if scheduled > policy.min { "a schedule keeps" } else { "min is" };
    Floor { replicas, why: format!("{why} {replicas}") }
}

impl State {
    /// Takes in what is seen; says whether somebody calls.
    fn look(&mut self, seen: &Observed, policy: &Policy, now: Duration) -> Calls {
        // What was decided and never came to be does not count as a change.
        let by = i64::from(seen.wanted) - i64::from(self.wanted.unwrap_or(seen.wanted));
        self.changes.push(now, by, [&policy.up, &policy.down]);
        if self.wanted.replace(seen.wanted).is_none() {
            self.called = now;
            self.settled = now;
            self.ready = seen.ready;
            self.arrived = seen.load.map_or(0, |l| l.arrived);
            // As if it had always been asked for: what others decided is not undone before the window is full.
            self.asked.push(now, i64::from(seen.wanted), policy.down.stabilization);
        }
        if seen.ready != self.ready {
            self.settled = now;
            self.ready = seen.ready;
        }
        self.learned.replicas(now, seen.ready, seen.starting);
        let gap = now.saturating_sub(self.called);
        let Some(load) = &seen.load else { return Calls { now: false, gap } };
        let came = load.arrived.saturating_sub(self.arrived);
        self.arrived = load.arrived;
        // Who was refused or left before the line was written has called, too.
        let calls = came > 0 || load.latest.in_flight + load.latest.queued > 0.0;
        if calls {
            if gap >= policy.idle_after {
                self.learned.woken(now, gap);
            }
            self.called = now;
        }
        self.learned.came(now, came);
        if let Some(answers) = answers_when_loaded(load, policy) {
            self.learned.answered(now, policy.stable_window.mul_f64(policy.panic_window), answers);
        }
        Calls { now: calls, gap }
    }

    /// The number that the load asks for, after every guard.
    fn follow(&mut self, look: &Look<'_>, floor: &Floor, calls: Calls) -> Choice {
        let Look { seen, load, policy, now } = *look;
        if floor.replicas == 0 && !calls.now {
            let idle = number(calls.gap.as_secs_f64().floor());
            if seen.wanted == 0 {
                return Choice::new(0, "asleep until somebody calls".to_owned());
            }
            if calls.gap >= policy.idle_after && self.called < now {
                return match self.keeps_warm(policy, calls.gap) {
                    // Sleep is for the whole service: no window of averages has a say in it.
                    None => Choice::new(0, format!("nobody called for {idle} s")),
                    Some(why) => Choice::new(self.stabilised(1, look).max(1), why),
                };
            }
        }

        let there = There {
            coming: seen.wanted.max(seen.ready + seen.starting),
            ready: seen.ready,
            answers: self.learned.answers(),
            start: self.learned.start(0.5),
        };
        let asked = ask(&policy.targets, load, &load.stable, &there);
        let replicas = round(asked.replicas, seen, policy);
        let mut choice = Choice::new(replicas, asked.why);
        choice.hold_floor(look, floor);
        self.guard_first_token(&mut choice, look);
        self.follow_burst(&mut choice, look, &there);
        if let Some(what) = asked.missing.filter(|_| choice.replicas < seen.wanted) {
            choice = Choice::new(seen.wanted, format!("nobody reports {what}; nothing is taken away"));
        }
        choice.limit(policy.max, |why, n| format!("{why} ask for {n}; max is {}", policy.max));

        let stable = self.stabilised(choice.replicas, look);
        let window = number(policy.down.stabilization.as_secs_f64());
        choice.raise(stable, |why, n| {
            format!("{why} ask for {n}; {stable} were asked for within the last {window} s")
        });
        choice.limit(stable, |why, n| format!("{why} ask for {n}; {stable} were asked for all the time"));
        let needed = needed(load, policy).min(seen.wanted);
        choice.raise(needed, |_, _| {
            format!("{} requests in flight need {needed}", number(load.latest.in_flight))
        });
        let slow =
            |why: &str, n| format!("{why} ask for {n}; no number further is within the limits of speed");
        choice.limit(self.changes.most(now, seen.wanted, &policy.up), slow);
        choice.raise(self.changes.fewest(now, seen.wanted, &policy.down), slow);
        // Bounds hold at any speed.
        choice.replicas = choice.replicas.clamp(floor.replicas, policy.max);
        choice
    }

    /// Time to first token comes late: it adds one tenth at a time, after the last step had its effect, and keeps what there is.
    fn guard_first_token(&self, choice: &mut Choice, look: &Look<'_>) {
        let Look { seen, load, policy, now } = *look;
        let (Some(limit), Some(p95)) = (policy.targets.ttft_p95, load.ttft_p95) else { return };
        if p95 <= limit {
            return;
        }
        let settled =
            seen.starting == 0 && seen.ready == seen.wanted && now >= self.settled + policy.stable_window;
        let step = if settled { seen.wanted.div_ceil(10) } else { 0 };
        let (p95, limit) = (number(p95.as_secs_f64()), number(limit.as_secs_f64()));
        choice.raise(seen.wanted + step, |_, _| {
            format!("95% of first tokens come within {p95} s, not {limit} s")
        });
    }

    /// A burst is followed at once, and nothing is taken away until the stable window has passed without one.
    fn follow_burst(&mut self, choice: &mut Choice, look: &Look<'_>, there: &There) {
        let Look { seen, load, policy, now } = *look;
        let Ask { replicas: asked, why: burst, missing: _ } = ask(&policy.targets, load, &load.panic, there);
        self.panic = self.panic.filter(|p| p.until > now);
        if asked / f64::from(seen.ready.max(1)) >= policy.panic_threshold {
            let highest = self.panic.map_or(0, |p| p.replicas);
            let replicas = round(asked, seen, policy).max(highest).min(policy.max);
            self.panic = Some(Panic { until: now + policy.stable_window, replicas });
        }
        // A burst that what is there can carry asks for nothing more, but it says what should stay: the next one may be like it.
        let peak = round(asked, seen, policy).min(seen.wanted);
        self.asked.push(now, i64::from(peak), policy.down.stabilization);
        let Some(Panic { until: _, replicas }) = self.panic else { return };
        let window = number(policy.stable_window.mul_f64(policy.panic_window).as_secs_f64());
        choice.raise(replicas.max(seen.wanted), |why, n| match asked > f64::from(n) {
            true => format!("a burst of {burst} over {window} s"),
            false => format!("{why} ask for {n}; nothing is taken away so soon after a burst"),
        });
    }

    /// The largest ask of the window on the way down, the smallest on the way up.
    fn stabilised(&mut self, replicas: u32, look: &Look<'_>) -> u32 {
        let Look { seen, load: _, policy, now } = *look;
        self.asked.push(now, i64::from(replicas), policy.down.stabilization);
        self.asked_least.push(now, -i64::from(replicas), policy.up.stabilization);
        let of =
            |window: &Largest| window.get().and_then(|n| u32::try_from(n.abs()).ok()).unwrap_or(replicas);
        match replicas < seen.wanted {
            true => of(&self.asked).min(seen.wanted),
            // Nobody waits for a window while a service sleeps.
            false if seen.wanted == 0 => replicas,
            false => of(&self.asked_least).max(seen.wanted),
        }
    }

    /// Why one replica stays although nobody calls.
    fn keeps_warm(&self, policy: &Policy, idle: Duration) -> Option<String> {
        let WarmFloor::Learned { waiting_price } = policy.warm_floor else { return None };
        let worth = self.learned.worth(waiting_price, idle).filter(|w| w.keep)?;
        Some(format!(
            "kept warm: waking would let requests wait for {} s together, worth {} replica-seconds; sleeping would save {}",
            number(worth.waiting),
            number(worth.waiting * waiting_price),
            number(worth.asleep)
        ))
    }
}

/// Up to the next whole number, unless it is as good as what is wanted already.
fn round(asked: f64, seen: &Observed, policy: &Policy) -> u32 {
    rounded(asked, seen.wanted, policy.tolerance(asked > f64::from(seen.wanted)))
}

/// Up to the next whole number, unless it is as good as what there is.
pub(crate) fn rounded(asked: f64, wanted: u32, tolerance: f64) -> u32 {
    let near = (asked - f64::from(wanted)).abs() <= f64::from(wanted) * tolerance + 1e-9;
    if near { wanted } else { (asked - 1e-9).ceil().clamp(0.0, f64::from(u32::MAX)) as u32 }
}

/// Requests a second that a replica answered over the short window, if it had at least most of the work that it should have: an idle
/// replica's answers say nothing of what it could do.
fn answers_when_loaded(load: &Load, policy: &Policy) -> Option<f64> {
    let Window { gauges, arrivals: _, answers } = load.panic;
    let loaded = match policy.targets.concurrency {
        Some(target) => gauges.in_flight >= 0.7 * target * gauges.endpoints,
        None => gauges.queued + gauges.waiting >= 0.5 * gauges.endpoints,
    };
    (loaded && gauges.endpoints > 0.0 && answers > 0.0).then(|| answers / gauges.endpoints)
}

/// What the requests that are being answered need.
fn needed(load: &Load, policy: &Policy) -> u32 {
    let in_flight = load.latest.in_flight;
    let at_a_time = policy.targets.concurrency.unwrap_or(f64::INFINITY);
    if in_flight > 0.0 { rounded(in_flight / at_a_time, 0, 0.0).max(1) } else { 0 }
}

#[cfg(test)]
mod tests;
