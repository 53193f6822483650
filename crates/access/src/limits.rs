//! How much may be used: what limits there are, what a refusal says, and how limits are kept ([`Limiter`]).
//!
//! "A minute" means any sixty seconds: in none of them is more let in than the limit, and a caller that was quiet has all of it at once. A
//! bucket that refills while it is emptied would let in twice the limit in its first minute.

mod count;
mod headers;
mod limiter;
mod meter;
mod pool;
mod window;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wharf_api::ApiError;

use crate::denied::whole_seconds;

pub use limiter::{Asked, Limiter, Reservation, Settings};
pub(crate) use pool::Tick;

/// How much may be used; what is absent has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Requests a minute.
    #[serde(deserialize_with = "count::read", skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Tokens a minute, of prompts and answers together.
    #[serde(deserialize_with = "count::read", skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Requests at the same time.
    #[serde(deserialize_with = "count::read", skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u64>,
    /// Tokens a day, which begins at midnight in UTC.
    #[serde(deserialize_with = "count::read", skip_serializing_if = "Option::is_none")]
    pub tokens_per_day: Option<u64>,
}

impl Limits {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }

    /// These, and the others' where these say nothing: a key's own limits before those of the service.
    #[must_use]
    pub fn or(self, others: Limits) -> Limits {
        Limits {
            requests_per_minute: self.requests_per_minute.or(others.requests_per_minute),
            tokens_per_minute: self.tokens_per_minute.or(others.tokens_per_minute),
            concurrent: self.concurrent.or(others.concurrent),
            tokens_per_day: self.tokens_per_day.or(others.tokens_per_day),
        }
    }

    pub(crate) fn get(&self, limit: Limit) -> Option<u64> {
        match limit {
            Limit::Concurrent => self.concurrent,
            Limit::Requests => self.requests_per_minute,
            Limit::Tokens => self.tokens_per_minute,
            Limit::Day => self.tokens_per_day,
        }
    }
}

/// What is limited, in the order in which it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Requests at the same time.
    Concurrent,
    /// Requests a minute.
    Requests,
    /// Tokens a minute.
    Tokens,
    /// Tokens a day.
    Day,
}

impl Limit {
    pub(crate) const ALL: [Limit; 4] = [Limit::Concurrent, Limit::Requests, Limit::Tokens, Limit::Day];

    /// As metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Concurrent => "concurrent",
            Limit::Requests => "requests",
            Limit::Tokens => "tokens",
            Limit::Day => "day",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Limit::Concurrent => "requests at the same time",
            Limit::Requests => "requests a minute",
            Limit::Tokens => "tokens a minute",
            Limit::Day => "tokens a day",
        }
    }
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// One caller's at one service.
    Caller,
    /// Everybody's together at one service.
    Service,
}

/// A limit that a request did not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Which.
    pub limit: Limit,
    /// Whose.
    pub scope: Scope,
    /// How much may be used.
    pub allowed: u64,
    /// What the request needed.
    pub asked: u64,
    /// How much of it is left, over all gateways.
    pub remaining: u64,
    /// When it is worth trying again.
    pub retry_after: Duration,
    /// When all of it is there again, if nothing more is used.
    pub reset: Duration,
    /// Why there is no room.
    pub cause: Cause,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is used up.
    Spent,
    /// The request alone is more than the limit.
    TooLarge,
    /// There is room, but other gateways hold it; they hand it over with the next reports. Asking again within a second may help.
    HeldElsewhere,
    /// More callers than this gateway can count.
    TooManyCallers,
}

impl std::error::Error for Limited {}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (allowed, asked, unit) = (self.allowed, self.asked, self.limit.unit());
        let whose = match self.scope {
            Scope::Caller => "this key",
            Scope::Service => "all callers together",
        };
        match self.cause {
            Cause::Spent | Cause::HeldElsewhere => {
                write!(f, "the limit of {allowed} {unit} for {whose} is reached; ")?;
                match self.limit {
                    Limit::Day => write!(f, "it is renewed at midnight UTC"),
                    Limit::Concurrent | Limit::Requests | Limit::Tokens => {
                        write!(f, "try again in {} s", whole_seconds(self.retry_after))
                    }
                }
            }
            Cause::TooLarge => write!(
                f,
                "the request may need {asked} tokens, more than the limit of {allowed} {unit} for {whose}; \
                 shorten the prompt or lower max_tokens"
            ),
            Cause::TooManyCallers => write!(f, "too many callers at the same time; try again in 1 s"),
        }
    }
}

impl From<Limited> for ApiError {
    fn from(limited: Limited) -> ApiError {
        let message = limited.to_string();
        let retry_after_seconds = whole_seconds(limited.retry_after);
        match limited.limit {
            Limit::Day => ApiError::InsufficientQuota { message, retry_after_seconds },
            Limit::Tokens => ApiError::RateLimited { message, counted: "tokens", retry_after_seconds },
            Limit::Requests | Limit::Concurrent => {
                ApiError::RateLimited { message, counted: "requests", retry_after_seconds }
            }
        }
    }
}

/// Where a caller stands with what is counted by the minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Requests a minute, if limited.
    pub requests: Option<Level>,
    /// Tokens a minute, if limited.
    pub tokens: Option<Level>,
}

/// How far a limit is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// How much may be used.
    pub limit: u64,
    /// How much of it is left, over all gateways.
    pub remaining: u64,
    /// When all of it is there again, if nothing more is used.
    pub reset: Duration,
}

#[cfg(test)]
mod tests;
