//! The state machine of a release: how a change takes over, and when it is taken back. Pure.
//!
//! [`step`] looks at what there is and says what should be: no clock, no client, no socket. The supervisor of one machine drives it over
//! child processes, an operator over Deployments. Every action but an event is a state that things should be in, so it may be repeated, and
//! may fail: a driver that is killed anywhere reads the [`State`] that it kept last, looks again, and comes to the same end.
//!
//! A driver does four things: it fills in an [`Observed`], calls [`step`], **keeps the new state before it acts**, and carries the actions out in
//! their order. It calls again when something changed, and at [`Step::look_again_ms`] at the latest.

mod actions;
mod adopt;
mod commands;
mod describe;
mod judge;
mod observed;
mod phases;
mod policy;
mod release;
mod replicas;
mod state;
mod step;
mod tally;
mod traffic;

pub use actions::Action;
pub use describe::describe;
pub use judge::{Sample, Verdict, judge};
pub use observed::{
    Command, CommandKind, Desired, Failure, GatewaySeen, Observed, Prepared, Room, VersionSeen,
};
pub use policy::{Policy, Portion};
pub use state::{Answer, FORMAT, Judging, Kept, Phase, ReadStateError, Refused, Shortage, State, Version};
pub use step::{Step, step};
pub use tally::{Look, Tally};
pub use wharf_spec::service::{Colour, Strategy, Traffic};

/// How long gateways may take to follow new shares of traffic before a release goes on without them, in milliseconds.
pub const FOLLOW_LIMIT_MS: u64 = 30_000;
/// How long requests on a version without traffic may take before it goes nevertheless, in milliseconds.
pub const DRAIN_LIMIT_MS: u64 = 300_000;
/// For how long all traffic is on a new version at least before it is promoted, in milliseconds: what fails by a timeout fails late.
pub const SETTLE_MS: u64 = 10_000;
/// For how long a new version with all traffic is watched at most, in milliseconds.
pub const VERIFY_LIMIT_MS: u64 = 120_000;
/// For how long replicas under traffic may be unready without any of them starting, in milliseconds.
pub const UNREADY_LIMIT_MS: u64 = 30_000;
/// A version that was started again so often before it was ready will not do better.
pub const RESTARTS_LIMIT: u32 = 3;
