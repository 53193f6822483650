//! The headers in which OpenAI's API tells clients where they stand (platform.openai.com/docs/guides/rate-limits).

use std::time::Duration;

use super::{Level, Standing};

impl Standing {
    /// Names and values of the `x-ratelimit-*` headers; none for what has no limit.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        const REQUESTS: [&str; 3] =
            ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
        const TOKENS: [&str; 3] =
            ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
        let Standing { requests, tokens } = self;
        [(REQUESTS, requests), (TOKENS, tokens)]
            .into_iter()
            .filter_map(|(names, level)| level.map(|level| (names, level)))
            .flat_map(|(names, Level { limit, remaining, reset })| {
                [(names[0], limit.to_string()), (names[1], remaining.to_string()), (names[2], time(reset))]
            })
            .collect()
    }
}

/// `250ms`, `1s`, `6m0s`, `1h0m0s`.
pub(super) fn time(time: Duration) -> String {
    let ms = time.as_millis();
    if ms == 0 {
        return "0s".to_owned();
    }
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let s = ms.div_ceil(1000);
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_clients_expect() {
        for (ms, text) in [
            (0, "0s"),
            (20, "20ms"),
            (1000, "1s"),
            (1001, "2s"),
            (60_000, "1m0s"),
            (360_000, "6m0s"),
            (3_605_000, "1h0m5s"),
        ] {
            assert_eq!(time(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn only_what_is_limited_has_headers() {
        assert_eq!(Standing::default().headers(), []);
        let level = Level { limit: 60, remaining: 59, reset: Duration::from_secs(61) };
        let headers = Standing { requests: Some(level), tokens: None }.headers();
        assert_eq!(
            headers,
            [
                ("x-ratelimit-limit-requests", "60".to_owned()),
                ("x-ratelimit-remaining-requests", "59".to_owned()),
                ("x-ratelimit-reset-requests", "1m1s".to_owned()),
            ]
        );
    }
}
