//! The list of policies. A new one is a file and a line here.

use std::time::Duration;

use crate::decide::{Decision, Observed, State, decide};
use crate::{Now, Policy, hpa, kpa};

/// A number of replicas, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// So many replicas there should be.
    pub replicas: u32,
    /// A sentence with the numbers.
    pub reason: String,
}

/// Something that decides how many replicas there should be, and remembers what it must.
pub trait Scaler: Send {
    /// Decides at a moment that is not before an earlier one.
    fn decide(&mut self, seen: &Observed, now: Now) -> Verdict;

    /// How often it looks.
    fn period(&self) -> Duration;

    /// Whether it also looks at every line of demand.
    fn reacts(&self) -> bool;
}

/// A policy by its name.
#[derive(Clone, Copy)]
pub struct NamedPolicy {
    /// As scenarios and reports have it.
    pub name: &'static str,
    /// In a few words.
    pub about: &'static str,
    /// Makes one.
    pub make: fn(&Policy) -> Box<dyn Scaler>,
}

/// Every policy.
pub const POLICIES: [NamedPolicy; 4] = [
    NamedPolicy {
        name: "native",
        about: "Wharf's own: reacts to every line of demand, panics up, goes down slowly, sleeps",
        make: |policy| Box::new(Pure::new(policy, decide, Duration::from_secs(1), true)),
    },
    NamedPolicy {
        name: "hpa",
        about: "HorizontalPodAutoscaler: looks every 15 s at means over ready replicas, never sleeps",
        make: |policy| Box::new(Pure::<hpa::State>::new(policy, hpa::decide, hpa::SYNC, false)),
    },
    NamedPolicy {
        name: "kpa",
        about: "as Knative's: 70% of the target, a panic window, down by half at most, an activator that wakes",
        make: |policy| Box::new(Pure::<kpa::State>::new(policy, kpa::decide, kpa::TICK, true)),
    },
    NamedPolicy {
        name: "static",
        about: "always max: the best that replicas can do, at the highest price",
        make: |policy| Box::new(Pure::<()>::new(policy, fixed, Duration::from_secs(60), false)),
    },
];

/// The policy of that name.
pub fn scaler(name: &str, policy: &Policy) -> Option<Box<dyn Scaler>> {
    POLICIES.iter().find(|p| p.name == name).map(|p| (p.make)(policy))
}

fn fixed((): &(), _: &Observed, policy: &Policy, _: Now) -> Decision<()> {
    Decision { replicas: policy.max, reason: format!("always {}", policy.max), state: () }
}

type Decide<S> = fn(&S, &Observed, &Policy, Now) -> Decision<S>;

/// A pure function and what it remembers.
struct Pure<S = State> {
    policy: Policy,
    decide: Decide<S>,
    state: S,
    period: Duration,
    reacts: bool,
}

impl<S: Default> Pure<S> {
    fn new(policy: &Policy, decide: Decide<S>, period: Duration, reacts: bool) -> Pure<S> {
        Pure { policy: policy.clone(), decide, state: S::default(), period, reacts }
    }
}

impl<S: Send> Scaler for Pure<S> {
    fn decide(&mut self, seen: &Observed, now: Now) -> Verdict {
        let Decision { replicas, reason, state } = (self.decide)(&self.state, seen, &self.policy, now);
        self.state = state;
        Verdict { replicas, reason }
    }

    fn period(&self) -> Duration {
        self.period
    }

    fn reacts(&self) -> bool {
        self.reacts
    }
}
