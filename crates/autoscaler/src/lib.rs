//! How many replicas there should be: pure decisions, the loop around them, and a simulator.
//!
//! [`Demand`] turns the lines of gateways into a [`Load`]; [`decide()`] turns load, replicas and a [`Policy`] into a number with a reason;
//! [`run()`] is the only part that reads a clock and does something. [`sim`] drives the same three parts through hours in seconds.
//! [`policy()`] reads a policy from an `LLMService`. The crate knows neither clusters nor processes: a [`ScaleTarget`] does.

mod asks;
mod changes;
mod decide;
mod demand;
mod extreme;
mod from_spec;
mod history;
mod hpa;
mod kpa;
mod learn;
mod policies;
mod policy;
mod run;
mod schedule;
pub mod sim;
mod target;
mod time;

pub use decide::{Decision, Observed, State, decide};
pub use demand::Demand;
pub use from_spec::policy;
pub use history::{Gauges, Load, Window, Windows};
pub use policies::{NamedPolicy, POLICIES, Scaler, Verdict, scaler};
pub use policy::{Amount, Limit, Policy, PolicyError, Rules, Select, Targets, WarmFloor};
pub use run::{Settings, Status, run};
pub use schedule::{Schedule, ScheduleError};
pub use target::{Replicas, ScaleTarget};
pub use time::Now;
