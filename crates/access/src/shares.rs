//! How several gateways keep one limit without a store between them.
//!
//! Each gateway has a part of a limit: what it used of it, which returns when it ceases to count, and what it holds and may still use. It lets
//! in no more than it holds. Several times a second it tells the others, for every caller that anybody counts, what it used, what it holds
//! and how much is asked of it ([`UsageReport`]). Who holds more than its share of the demand lets go of the rest at once; who holds less takes
//! of what nobody holds, never of what somebody may still use. What nobody holds may be taken by several at once, before they hear of each
//! other: each takes its part and leaves the others theirs until they confirm what they saw. So a late or lost report makes a gateway let
//! in less, not more.
//!
//! Reports are merged like any state that only its owner changes: for each life of a gateway the one with the highest sequence counts, whatever
//! order they come in and however often. Uses of a gateway that is gone count on until their minute or day is over; those that remember
//! them say so in their own reports.

pub(crate) mod peers;
mod secret;
pub(crate) mod split;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::Limit;

pub use secret::{MIN_SECRET, PeerSecret, SecretError};

/// How often gateways should report; more often is harmless, and the answer to [`crate::limits::Cause::HeldElsewhere`].
pub const REPORT_EVERY: Duration = Duration::from_millis(250);

/// How long a gateway that is not heard is thought to be there.
pub const LEASE: Duration = Duration::from_secs(6);

/// What one gateway tells the others: all of its state, so that a lost report costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageReport {
    /// The gateway's name: its pod, or `local`.
    pub gateway: String,
    /// When the gateway started, in milliseconds since 1970: tells its lives apart.
    pub epoch: u64,
    /// Grows by one with every report.
    pub sequence: u64,
    /// The last report of each other gateway that is in this one, by name. What it says of the sender's share was decided in sight of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seen: BTreeMap<String, Seen>,
    /// What is counted for each caller of each service.
    pub meters: Vec<MeterReport>,
}

/// A report of another gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Which life of it.
    pub epoch: u64,
    /// Which report.
    pub sequence: u64,
}

/// What one gateway counts for one caller of a service, or for all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeterReport {
    /// `namespace/name`.
    pub service: String,
    /// [`crate::Principal::id`]; absent for everybody together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// One for each limit.
    pub pools: BTreeMap<Limit, PoolReport>,
}

/// What one gateway knows of one limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolReport {
    /// The limit, for gateways that have not seen the caller.
    pub limit: u64,
    /// What it used of it: in the last minute, today, or now.
    pub used: u64,
    /// For minutes: how much of `used` ceases to count within ten seconds, how much in the ten after those, and so on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<u64>,
    /// What it may use before it hears from the others again.
    pub held: u64,
    /// What is asked of it, over the last seconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub wanted: f64,
    /// The largest request that found no room there lately.
    #[serde(skip_serializing_if = "is_none")]
    pub need: u64,
    /// The day that `used` is of, in days since 1970; zero where days do not matter.
    #[serde(skip_serializing_if = "is_none")]
    pub day: u64,
    /// What gateways used that are gone, by `name/epoch`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub gone: BTreeMap<String, GoneUse>,
}

/// What a gateway used that is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GoneUse {
    /// What it had used when it was last heard.
    pub used: u64,
    /// As [`PoolReport::leaving`], at that time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<u64>,
    /// How long ago that was.
    pub age_ms: u64,
}

fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

fn is_none(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests;
