//! Where the time before a replica's process went: to its model, or to a place to run. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// How long a replica waited before its process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waited {
    /// For its model.
    pub(crate) fetch: Duration,
    /// For everything else: room, and the pause after a replica that ended.
    pub(crate) schedule: Duration,
}

/// When what happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Since then the service should have replicas at all.
    pub(crate) wanted: Instant,
    /// Since then this one was missing.
    pub(crate) missing: Instant,
    /// Its process started.
    pub(crate) started: Instant,
}

/// How long a replica waited. `made` is from when to when its model was made, if it is the first one since.
pub(crate) fn waited(times: Times, made: Option<(Instant, Instant)>) -> Waited {
    let Times { wanted, missing, started } = times;
    let Some((from, to)) = made else {
        return Waited { fetch: Duration::ZERO, schedule: started.saturating_duration_since(missing) };
    };
    Waited {
        // Nobody waited for a model that was made before anybody wanted it.
        fetch: to.saturating_duration_since(from.max(wanted)),
        schedule: started.saturating_duration_since(missing.max(to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_before_a_start_is_divided_where_it_went() {
        let origin = Instant::now();
        let at = |seconds: u64| origin + Duration::from_secs(seconds);
        let cases = [
            // wanted, missing, started; made from, to; fetch, schedule
            (
                "a release, whose replicas are wanted once the model is made",
                (0, 35, 37),
                Some((10, 35)),
                (25, 2),
            ),
            (
                "a supervisor that goes on, which has the version already",
                (0, 10, 36),
                Some((10, 35)),
                (25, 1),
            ),
            ("a service that was woken while its model was made", (20, 20, 36), Some((10, 35)), (15, 1)),
            ("a service that was woken long after", (90, 90, 91), Some((10, 35)), (0, 1)),
            ("one more replica, or one in place of one that ended", (0, 50, 58), None, (0, 8)),
        ];
        for (what, (wanted, missing, started), made, (fetch, schedule)) in cases {
            let times = Times { wanted: at(wanted), missing: at(missing), started: at(started) };
            let found = waited(times, made.map(|(from, to)| (at(from), at(to))));
            let expected =
                Waited { fetch: Duration::from_secs(fetch), schedule: Duration::from_secs(schedule) };
            assert_eq!(found, expected, "{what}");
        }
    }
}
