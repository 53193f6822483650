//! What a user wants of scaling, as plain numbers. [`Policy::check`] refuses what no decision could honour.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Schedule;
use crate::time::{seconds, some_seconds};

/// How the number of replicas follows demand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Fewest replicas. At 0 the service sleeps when nobody calls.
    pub min: u32,
    /// Most replicas.
    pub max: u32,
    /// How much each replica should carry.
    pub targets: Targets,
    /// Time over which load is averaged.
    #[serde(with = "seconds", rename = "stable_window_s")]
    pub stable_window: Duration,
    /// The window that sees bursts, as a share of the stable window.
    pub panic_window: f64,
    /// How many times the capacity of ready replicas the panic window must ask for.
    pub panic_threshold: f64,
    /// How far from what there is an ask may lie and be ignored, as a share, in a direction whose rules do not say it.
    pub tolerance: f64,
    /// How fast replicas come.
    pub up: Rules,
    /// How fast replicas go.
    pub down: Rules,
    /// How long nobody must have called before the service goes to zero.
    #[serde(with = "seconds", rename = "idle_after_s")]
    pub idle_after: Duration,
    /// Times at which at least so many replicas run.
    pub schedules: Vec<Schedule>,
    /// Whether one replica stays where sleeping would cost more than it saves.
    pub warm_floor: WarmFloor,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            min: 1,
            max: 1,
            targets: Targets::default(),
            stable_window: Duration::from_secs(60),
            panic_window: 0.1,
            panic_threshold: 2.0,
            tolerance: 0.1,
            up: Rules::up(),
            down: Rules::down(),
            idle_after: Duration::from_secs(300),
            schedules: Vec::new(),
            warm_floor: WarmFloor::Off,
        }
    }
}

impl Policy {
    /// Refuses what no decision could honour.
    pub fn check(&self) -> Result<(), PolicyError> {
        let Policy {
            min,
            max,
            targets,
            stable_window,
            panic_window,
            panic_threshold,
            tolerance,
            up,
            down,
            idle_after: _,
            schedules: _,
            warm_floor,
        } = self;
        if *max == 0 || min > max {
            return Err(PolicyError::Bounds { min: *min, max: *max });
        }
        if stable_window.is_zero() {
            return Err(PolicyError::Number { what: "the stable window", value: 0.0, wanted: "above 0" });
        }
        let above_zero = |what, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(PolicyError::Number { what, value, wanted: "above 0" }),
        };
        let Targets { concurrency, requests_per_second, queue, kv_cache, tokens_in_flight, ttft_p95 } =
            targets;
        let numbers = [
            ("target concurrency", *concurrency),
            ("target requests per second", *requests_per_second),
            ("target queue", *queue),
            ("target KV cache", *kv_cache),
            ("target tokens in flight", *tokens_in_flight),
            ("target time to first token", ttft_p95.map(|t| t.as_secs_f64())),
            ("the panic threshold", Some(*panic_threshold)),
            ("the panic window", Some(*panic_window)),
        ];
        for (what, value) in numbers {
            value.map_or(Ok(()), |value| above_zero(what, value))?;
        }
        if *panic_window > 1.0 {
            return Err(PolicyError::Number {
                what: "the panic window",
                value: *panic_window,
                wanted: "at most 1",
            });
        }
        if !(0.0..1.0).contains(tolerance) {
            return Err(PolicyError::Number {
                what: "tolerance",
                value: *tolerance,
                wanted: "from 0 to below 1",
            });
        }
        for value in [up, down].into_iter().filter_map(|rules| rules.tolerance) {
            if !(value.is_finite() && value >= 0.0) {
                return Err(PolicyError::Number { what: "tolerance", value, wanted: "at least 0" });
            }
        }
        match warm_floor {
            WarmFloor::Off => Ok(()),
            WarmFloor::Learned { waiting_price } => above_zero("the price of waiting", *waiting_price),
        }
    }

    /// How far from what there is an ask for more, or for less, may lie and be ignored.
    pub(crate) fn tolerance(&self, more: bool) -> f64 {
        let rules = if more { &self.up } else { &self.down };
        rules.tolerance.unwrap_or(self.tolerance)
    }
}

/// Why a policy is refused.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum PolicyError {
    /// No number of replicas lies between the bounds.
    #[error("min is {min} and max is {max}: max must be at least 1 and at least min")]
    Bounds {
        /// Fewest.
        min: u32,
        /// Most.
        max: u32,
    },
    /// A number is out of its range.
    #[error("{what} is {value}, it must be {wanted}")]
    Number {
        /// Which.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The range.
        wanted: &'static str,
    },
}

/// How much each replica should carry; the target that asks for most wins.
///
/// With none set, `queue: 2` and `kv_cache: 0.8` hold: what waits and what is full are what any model server can say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Targets {
    /// Requests at the same time, held ones included.
    pub concurrency: Option<f64>,
    /// Requests a second.
    pub requests_per_second: Option<f64>,
    /// Requests that wait, at the gateway and in model servers.
    pub queue: Option<f64>,
    /// Share of the KV cache in use, 0 to 1.
    pub kv_cache: Option<f64>,
    /// Tokens of prompts and answers that are being worked on.
    pub tokens_in_flight: Option<f64>,
    /// Time to first token that 95% of requests should not exceed. It comes late, so it only adds one step at a time and keeps replicas
    /// from going.
    #[serde(with = "some_seconds", rename = "ttft_p95_s")]
    pub ttft_p95: Option<Duration>,
}

impl Targets {
    /// These, or the default ones where none is set.
    pub fn effective(&self) -> Targets {
        match *self == Targets::default() {
            true => Targets { queue: Some(2.0), kv_cache: Some(0.8), ..Targets::default() },
            false => *self,
        }
    }
}

/// How fast replicas may come or go, as `behavior` of `autoscaling/v2`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Going down, the largest number asked for in this time is taken; going up, the smallest.
    #[serde(with = "seconds", rename = "stabilization_s")]
    pub stabilization: Duration,
    /// Which of the limits counts.
    pub select: Select,
    /// Limits; none is no limit.
    pub limits: Vec<Limit>,
    /// How far from what there is an ask may lie in this direction and be ignored, as a share; the policy's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
}

impl Rules {
    /// Up as `autoscaling/v2` has it by default: at once, doubling or four replicas every 15 s.
    pub fn up() -> Rules {
        let every = Duration::from_secs(15);
        Rules {
            stabilization: Duration::ZERO,
            select: Select::Max,
            limits: vec![
                Limit { most: Amount::Percent(100), every },
                Limit { most: Amount::Replicas(4), every },
            ],
            tolerance: None,
        }
    }

    /// Down as `autoscaling/v2` has it by default: what five minutes asked for at most, then all at once.
    pub fn down() -> Rules {
        Rules {
            stabilization: Duration::from_secs(300),
            select: Select::Max,
            limits: vec![Limit { most: Amount::Percent(100), every: Duration::from_secs(15) }],
            tolerance: None,
        }
    }
}

/// Which of several limits counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The one that allows the most change.
    #[default]
    Max,
    /// The one that allows the least.
    Min,
    /// No change in this direction.
    Disabled,
}

/// So much change in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// How much.
    pub most: Amount,
    /// In which time.
    #[serde(with = "seconds", rename = "every_s")]
    pub every: Duration,
}

/// How much may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// A number of replicas.
    Replicas(u32),
    /// A share of the replicas that there were, in percent.
    Percent(u32),
}

/// Whether one replica stays up where sleeping would cost more than it saves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmFloor {
    /// Sleep whenever nobody called for `idle_after`.
    #[default]
    Off,
    /// Stay where the past says so.
    Learned {
        /// How many replica-seconds one second of one waiting request is worth.
        waiting_price: f64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_decision_could_honour_is_refused() {
        let check = |change: fn(&mut Policy)| {
            let mut policy = Policy::default();
            change(&mut policy);
            policy.check().map_err(|e| e.to_string())
        };
        assert_eq!(check(|_| ()), Ok(()));
        let bounds = "max must be at least 1 and at least min";
        assert_eq!(check(|p| p.max = 0), Err(format!("min is 1 and max is 0: {bounds}")));
        assert_eq!(check(|p| p.min = 2), Err(format!("min is 2 and max is 1: {bounds}")));
        let zero = "target concurrency is 0, it must be above 0";
        assert_eq!(check(|p| p.targets.concurrency = Some(0.0)), Err(zero.to_owned()));
        assert!(check(|p| p.tolerance = 1.0).is_err());
        assert!(check(|p| p.down.tolerance = Some(-0.1)).is_err());
        assert!(check(|p| p.panic_window = f64::NAN).is_err());
        assert!(check(|p| p.warm_floor = WarmFloor::Learned { waiting_price: -1.0 }).is_err());
    }

    #[test]
    fn a_policy_comes_back_from_its_file_as_it_was() {
        let policy = Policy {
            targets: Targets { ttft_p95: Some(Duration::from_millis(2500)), ..Targets::default() },
            warm_floor: WarmFloor::Learned { waiting_price: 5.0 },
            ..Policy::default()
        };
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
        assert_eq!(serde_json::from_str::<Policy>("{}").unwrap(), Policy::default());
    }
}
