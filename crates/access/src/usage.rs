//! What remains of a finished request: one line for whoever writes bills, and sums for each key.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One finished request. It has neither prompt nor answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageRecord {
    /// When it ended.
    pub time: Timestamp,
    /// The request's id, as the caller got it.
    pub request_id: String,
    /// [`crate::Principal::id`].
    pub key_id: String,
    /// [`crate::Principal::name`].
    pub key_name: String,
    /// `namespace/name`.
    pub service: String,
    /// The model's name in the request.
    pub model: String,
    /// The HTTP status that the caller got.
    pub status: u16,
    /// Tokens.
    #[serde(flatten)]
    pub tokens: Tokens,
    /// From arrival to end, in milliseconds.
    pub duration_ms: u64,
    /// From arrival to the answer's first token, in milliseconds, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<u64>,
    /// The gateway that it came through.
    pub gateway: String,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tokens {
    /// The prompt's, cached ones included.
    pub prompt_tokens: u64,
    /// Those of the prompt that were in a cache.
    pub cached_tokens: u64,
    /// The answer's.
    pub completion_tokens: u64,
}

impl UsageRecord {
    /// The record as one line of JSON, with its end.
    pub fn line(&self) -> String {
        // Strings, numbers and a time always have a form in JSON.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

/// Sums of finished requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Requests that were answered: statuses below 400.
    pub answered: u64,
    /// Requests that the caller is to blame for: 400 to 499.
    pub refused: u64,
    /// Requests that we are to blame for.
    pub failed: u64,
    /// Tokens of all of them.
    #[serde(flatten)]
    pub tokens: Tokens,
}

impl Totals {
    /// Counts a request.
    pub fn add(&mut self, record: &UsageRecord) {
        let Tokens { prompt_tokens, cached_tokens, completion_tokens } = record.tokens;
        match record.status {
            0..400 => self.answered += 1,
            400..500 => self.refused += 1,
            500.. => self.failed += 1,
        }
        self.tokens.prompt_tokens += prompt_tokens;
        self.tokens.cached_tokens += cached_tokens;
        self.tokens.completion_tokens += completion_tokens;
    }
}

/// Sums for each key and service; of a bounded number of them.
#[derive(Clone, Debug)]
pub struct Counters {
    most: usize,
    /// By key and service.
    totals: BTreeMap<(String, String), Totals>,
    /// Of all that found no place.
    rest: Totals,
}

impl Counters {
    /// Counters for at most so many pairs of key and service.
    pub fn new(most: usize) -> Counters {
        Counters { most, totals: BTreeMap::new(), rest: Totals::default() }
    }

    /// Counts a request.
    pub fn add(&mut self, record: &UsageRecord) {
        let name = (record.key_id.clone(), record.service.clone());
        if self.totals.len() >= self.most && !self.totals.contains_key(&name) {
            self.rest.add(record);
        } else {
            self.totals.entry(name).or_default().add(record);
        }
    }

    /// Key, service and sums.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Totals)> {
        self.totals.iter().map(|((key, service), totals)| (key.as_str(), service.as_str(), totals))
    }

    /// Sums of all that found no place.
    pub fn rest(&self) -> &Totals {
        &self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, status: u16) -> UsageRecord {
        UsageRecord {
            time: "2026-03-01T12:00:00Z".parse().unwrap(),
            request_id: "req-1".into(),
            key_id: key.into(),
            key_name: "ci".into(),
            service: "default/assistant".into(),
            model: "assistant".into(),
            status,
            tokens: Tokens { prompt_tokens: 10, cached_tokens: 4, completion_tokens: 3 },
            duration_ms: 120,
            first_token_ms: Some(15),
            gateway: "gateway-0".into(),
        }
    }

    #[test]
    fn a_record_is_one_line_that_can_be_read_again() {
        let record = UsageRecord { model: "two\nlines".into(), ..record("key:1", 200) };
        let line = record.line();
        expect_test::expect![[r#"
            {"time":"2026-03-01T12:00:00Z","requestId":"req-1","keyId":"key:1","keyName":"ci","service":"default/assistant","model":"two\nlines","status":200,"promptTokens":10,"cachedTokens":4,"completionTokens":3,"durationMs":120,"firstTokenMs":15,"gateway":"gateway-0"}
        "#]]
        .assert_eq(&line);
        assert_eq!(serde_json::from_str::<UsageRecord>(&line).unwrap(), record);
    }

    #[test]
    fn sums_are_kept_for_a_bounded_number_of_keys() {
        let mut counters = Counters::new(1);
        for (key, status) in [("a", 200), ("a", 429), ("b", 502), ("a", 500)] {
            counters.add(&record(key, status));
        }
        let all: Vec<_> = counters.iter().collect();
        assert_eq!((all.len(), all[0].0), (1, "a"));
        assert_eq!((all[0].2.answered, all[0].2.refused, all[0].2.failed), (1, 1, 1));
        assert_eq!((counters.rest().failed, counters.rest().tokens.prompt_tokens), (1, 10));
    }
}
