//! Decides how long to wait before another try, and when there is none. Pure: time and chance are handed in.

use std::time::{Duration, SystemTime};

/// How often and how soon a failed request is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries in a row that bring nothing before giving up.
    pub attempts: u32,
    /// The first pause; each one after it is twice as long.
    pub first: Duration,
    /// The longest pause that we choose.
    pub longest: Duration,
    /// The longest pause that a server may ask for.
    pub patience: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts: 8,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            patience: Duration::from_secs(300),
        }
    }
}

impl Retry {
    /// The pause after failure number `failures` (from 1); `None` to give up. `chance` is in 0..1 and spreads clients that failed
    /// together; what the server asked for is never shortened.
    pub(crate) fn pause(&self, failures: u32, asked: Option<Duration>, chance: f64) -> Option<Duration> {
        if failures >= self.attempts || asked.is_some_and(|asked| asked > self.patience) {
            return None;
        }
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let spread = doubled.min(self.longest).mul_f64(0.5 + 0.5 * chance);
        Some(spread.max(asked.unwrap_or_default()))
    }
}

/// Whether an answer with this status may be another one next time.
pub(crate) fn passing(status: http::StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504 | 520..=529)
}

/// What `Retry-After` asks for: seconds, or a date.
pub(crate) fn retry_after(headers: &http::HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest_and_end() {
        let retry = Retry { attempts: 6, first: SECOND, longest: 5 * SECOND, patience: 60 * SECOND };
        let pauses: Vec<_> = (1..=6).map(|failures| retry.pause(failures, None, 1.0)).collect();
        let seconds = [1, 2, 4, 5, 5].map(|s| Some(s * SECOND));
        assert_eq!(pauses[..5], seconds);
        assert_eq!(pauses[5], None);
        assert_eq!(retry.pause(1, None, 0.0), Some(SECOND / 2));
    }

    #[test]
    fn a_server_that_asks_for_more_time_gets_it_within_reason() {
        let retry = Retry { attempts: 6, first: SECOND, longest: 5 * SECOND, patience: 60 * SECOND };
        assert_eq!(retry.pause(1, Some(30 * SECOND), 0.0), Some(30 * SECOND));
        assert_eq!(retry.pause(1, Some(61 * SECOND), 0.0), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let asked = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", value.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(asked("7"), Some(7 * SECOND));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:47 GMT"), Some(10 * SECOND));
        assert_eq!(asked("Sun, 06 Nov 1994 08:40:00 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("soon"), None);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (status, expected) in
            [(429, true), (503, true), (500, true), (404, false), (401, false), (501, false)]
        {
            assert_eq!(passing(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
    }
}
