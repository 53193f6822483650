//! How long to wait before a replica that ended by itself is started again. Pure.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(60);
/// A replica that was ready for so long has earned a fresh start.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// Ends of a replica in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    ends: u32,
}

impl Backoff {
    /// It ended after having been ready for so long; says how long to wait.
    pub(crate) fn ended(&mut self, ready_for: Duration) -> Duration {
        if ready_for >= FORGIVEN_AFTER {
            self.ends = 0;
        }
        let wait = FIRST.saturating_mul(1 << self.ends.min(16)).min(LONGEST);
        self.ends = self.ends.saturating_add(1);
        wait
    }

    /// Ends in a row.
    pub(crate) fn ends(self) -> u32 {
        self.ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_begin_anew_after_a_good_run() {
        let mut backoff = Backoff::default();
        let ms: Vec<u128> = (0..10).map(|_| backoff.ended(Duration::ZERO).as_millis()).collect();
        assert_eq!(ms, [250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(backoff.ended(Duration::from_secs(61)).as_millis(), 250);
    }
}
