//! What a pod's engine said in the last half minute, and how fast its counter grows. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use wharf_telemetry::engines::EngineLoad;

/// Over how long rates are averaged.
pub(crate) const WINDOW: Duration = Duration::from_secs(30);
/// What was said longer ago than this is no value any more.
pub(crate) const FRESH: Duration = Duration::from_secs(5);

/// What is known of an engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EngineSeen {
    pub(crate) load: EngineLoad,
    /// Requests that ended, a second; none while there is one sample, or where the engine does not count them.
    pub(crate) rate: Option<f64>,
    /// How long ago it said so.
    pub(crate) age: Duration,
}

/// Samples of one engine, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct History(VecDeque<(Duration, EngineLoad)>);

impl History {
    /// Takes in what an engine said at `now`, a time since any fixed moment.
    pub(crate) fn add(&mut self, now: Duration, load: EngineLoad) {
        self.0.push_back((now, load));
        // One that is older than the window stays, so that the rate is over all of it.
        while self.0.get(1).is_some_and(|(when, _)| now.saturating_sub(*when) >= WINDOW) {
            self.0.pop_front();
        }
    }

    /// What is known at `now`.
    pub(crate) fn seen(&self, now: Duration) -> Option<EngineSeen> {
        let (when, load) = self.0.back()?;
        let age = now.saturating_sub(*when);
        (age <= FRESH).then(|| EngineSeen { load: load.clone(), rate: self.rate(), age })
    }

    /// Whether there is enough for a rate.
    pub(crate) fn has_rate(&self) -> bool {
        self.0.len() > 1
    }

    /// What the counter gained, a second. An engine that started again counts from zero.
    fn rate(&self) -> Option<f64> {
        let (first, last) = (self.0.front()?.0, self.0.back()?.0);
        let counted: Option<Vec<f64>> = self.0.iter().map(|(_, load)| load.finished).collect();
        let gained: f64 = counted?
            .windows(2)
            .map(|pair| if pair[1] >= pair[0] { pair[1] - pair[0] } else { pair[1] })
            .sum();
        let seconds = last.saturating_sub(first).as_secs_f64();
        (seconds > 0.0).then(|| gained / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(samples: &[(u64, f64)]) -> History {
        let mut history = History::default();
        for (second, finished) in samples {
            let load = EngineLoad { finished: Some(*finished), ..EngineLoad::default() };
            history.add(Duration::from_secs(*second), load);
        }
        history
    }

    fn rate(samples: &[(u64, f64)]) -> Option<f64> {
        history(samples).rate()
    }

    #[test]
    fn a_rate_is_what_was_gained_over_the_window() {
        assert_eq!(rate(&[(0, 10.0)]), None);
        assert_eq!(rate(&[(0, 10.0), (2, 14.0)]), Some(2.0));
        let long: Vec<(u64, f64)> =
            (0..100).map(|second| (second, if second < 60 { 0.0 } else { 5.0 })).collect();
        assert_eq!(rate(&long), Some(0.0), "what came before the window is forgotten");
    }

    #[test]
    fn an_engine_that_started_again_loses_nothing() {
        assert_eq!(rate(&[(0, 100.0), (2, 104.0), (4, 2.0)]), Some(1.5));
    }

    #[test]
    fn an_engine_that_counts_nothing_has_no_rate() {
        let mut history = History::default();
        history.add(Duration::from_secs(1), EngineLoad::default());
        history.add(Duration::from_secs(2), EngineLoad::default());
        assert_eq!(history.seen(Duration::from_secs(2)).unwrap().rate, None);
    }

    #[test]
    fn what_is_older_than_five_seconds_is_no_value() {
        let history = history(&[(10, 1.0)]);
        assert!(history.seen(Duration::from_secs(15)).is_some());
        assert_eq!(history.seen(Duration::from_millis(15_001)), None);
    }
}
