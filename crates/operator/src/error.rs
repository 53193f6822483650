//! What can go wrong in a look, and when it is tried again.

use std::time::Duration;

/// A look was not finished. It is taken again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused, or could not be asked.
    #[error("failed to {verb} {kind} {name}")]
    Call {
        verb: &'static str,
        kind: String,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// A kind that the cluster does not have.
    #[error("the cluster has no {kind} ({api_version}); install what brings it, or leave out what needs it")]
    Unserved { api_version: String, kind: String },
    /// The API server does not answer.
    #[error("the API server did not answer within {0:?}")]
    Late(Duration),
    /// What the watch shows is older than what was written last.
    #[error("the cluster has not yet shown what was written last")]
    Stale,
}

impl Error {
    pub(crate) fn call(verb: &'static str, kind: &str, name: &str, source: kube::Error) -> Error {
        Error::Call { verb, kind: kind.to_owned(), name: name.to_owned(), source: Box::new(source) }
    }

    /// The code that the API server answered with.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Error::Call { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Error::Unserved { .. } | Error::Late(_) | Error::Stale => None,
        }
    }

    /// Others write too, or a watch is late: nothing that anybody has to be told of.
    pub(crate) fn is_a_race(&self) -> bool {
        matches!(self, Error::Stale) || self.code() == Some(409)
    }

    /// In one word, for conditions and Events.
    pub(crate) fn reason(&self) -> &'static str {
        match (self, self.code()) {
            (Error::Unserved { .. }, _) => "KindMissing",
            (_, Some(403)) => "Forbidden",
            (_, Some(400 | 422)) => "Refused",
            (_, Some(429)) => "TooManyRequests",
            _ => "ClusterUnavailable",
        }
    }
}

/// When a look that failed so many times in a row is taken again: after a race soon, otherwise later each time, up to a minute.
pub(crate) fn again_after(error: &Error, failures: u32) -> Duration {
    const RACE: Duration = Duration::from_millis(30);
    const FIRST_MS: u64 = 200;
    const LONGEST_MS: u64 = 60_000;
    if error.is_a_race() && failures < 20 {
        return RACE;
    }
    let doubled = FIRST_MS.saturating_mul(1 << failures.min(20));
    let most = doubled.min(LONGEST_MS);
    // Objects that failed together should not come back together.
    Duration::from_millis(most / 2 + fastrand::u64(0..=most / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_grows_to_a_minute_and_a_race_does_not_wait() {
        let unserved = Error::Unserved { api_version: "v1".to_owned(), kind: "X".to_owned() };
        assert!(again_after(&unserved, 0) <= Duration::from_millis(200));
        assert!(again_after(&unserved, 4) >= Duration::from_millis(1600));
        assert!(again_after(&unserved, 1000) <= Duration::from_secs(60));
        assert!(again_after(&Error::Stale, 3) < Duration::from_millis(100));
    }
}
