//! What time it is, as decisions are told: on the clock that never jumps, and on the one that days and expiry dates refer to.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// For rates: it only goes forward, at an even pace.
    pub monotonic: Instant,
    /// For days and dates, in milliseconds since 1970; an administrator may set it.
    pub unix_ms: u64,
}

impl Moment {
    /// Reads both clocks. Nothing else in this crate's decisions does.
    pub fn now() -> Moment {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { monotonic: Instant::now(), unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
    }

    /// The same moment, later.
    #[must_use]
    pub fn after(self, time: Duration) -> Moment {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Moment { monotonic: self.monotonic + time, unix_ms: self.unix_ms.saturating_add(ms) }
    }

    /// Days since 1970, in UTC.
    pub fn day(self) -> u64 {
        self.unix_ms / DAY_MS
    }

    /// How long this UTC day still lasts.
    pub fn rest_of_day(self) -> Duration {
        Duration::from_millis(DAY_MS - self.unix_ms % DAY_MS)
    }
}
