//! What a service does lately, by what gateways count, or replicas where there are none: tokens a second and the time to the first one. Pure.
//!
//! It is said of a stretch of time that has ended, and in two digits, so that a status is not written for every request.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use wharf_api::demand::first_token_percentile;
use wharf_spec::service::Measured;

use crate::gateways::{Answers, Heard};

/// Share of requests that `ttftP95` speaks of.
const SHARE: f64 = 0.95;

/// What gateways have counted of a service.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    since: Instant,
    /// By gateway, with the life that it counts in.
    answers: BTreeMap<String, (u64, Answers)>,
    /// What came of the stretch before this one; nothing before the first one has ended.
    pub(crate) measured: Option<Option<Measured>>,
}

/// Counts on. A stretch that has lasted for `stretch` ends, and another one begins.
pub(crate) fn count(before: Option<Counted>, heard: &[Heard], now: Instant, stretch: Duration) -> Counted {
    let answers: BTreeMap<String, (u64, Answers)> = heard
        .iter()
        .map(|heard| (heard.gateway.name.clone(), (heard.gateway.epoch, heard.answers.clone())))
        .collect();
    let Some(before) = before else { return Counted { since: now, answers, measured: None } };
    let lasted = now - before.since;
    if lasted < stretch {
        return before;
    }
    let mut all = Answers::default();
    for (gateway, (epoch, answers)) in &answers {
        match before.answers.get(gateway) {
            Some((life, earlier)) if life == epoch => all.add(answers, earlier),
            // It began to count within the stretch, or is new to us: then what it counted before is not of it.
            Some(_) => all.add(answers, &Answers::default()),
            None => {}
        }
    }
    let answered = first_token_percentile(&all.first_token, SHARE);
    let measured = answered.map(|ms| Measured {
        tokens_per_second: two_digits(all.tokens as f64 / lasted.as_secs_f64()),
        ttft_p95: two_digits(ms / 1000.0),
    });
    Counted { since: now, answers, measured: Some(measured) }
}

impl Answers {
    /// Adds what was counted since `earlier`.
    fn add(&mut self, now: &Answers, earlier: &Answers) {
        self.tokens += now.tokens.saturating_sub(earlier.tokens);
        self.first_token.resize(self.first_token.len().max(now.first_token.len()), 0);
        for (place, sum) in self.first_token.iter_mut().enumerate() {
            let of = |answers: &Answers| answers.first_token.get(place).copied().unwrap_or(0);
            *sum += of(now).saturating_sub(of(earlier));
        }
    }
}

fn two_digits(value: f64) -> f64 {
    if value <= 0.0 {
        return 0.0;
    }
    let scale = 10_f64.powf(1.0 - value.log10().floor());
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use wharf_rollout::GatewaySeen;

    use super::*;

    const STRETCH: Duration = Duration::from_secs(100);

    fn heard(gateway: &str, epoch: u64, tokens: u64, first_token: &[u64]) -> Heard {
        let gateway = GatewaySeen { name: gateway.to_owned(), epoch, ..GatewaySeen::default() };
        Heard { gateway, answers: Answers { tokens, first_token: first_token.to_vec() }, ..Heard::default() }
    }

    #[test]
    fn what_was_counted_within_a_stretch_is_said_when_it_has_ended() {
        let begin = Instant::now();
        let first = [heard("a", 1, 5000, &[9, 0, 0]), heard("b", 1, 100, &[])];
        let counted = count(None, &first, begin, STRETCH);
        assert_eq!(counted.measured, None);
        let later = [heard("a", 1, 7000, &[9, 0, 20]), heard("b", 2, 345, &[0, 0, 20])];
        let counted = count(Some(counted), &later, begin + STRETCH / 2, STRETCH);
        assert_eq!(counted.measured, None, "it has not ended");
        let counted = count(Some(counted), &later, begin + STRETCH, STRETCH);
        // 2000 of the one and, since the other started again, 345; all first tokens within 25 to 50 ms.
        let expected = Measured { tokens_per_second: 23.0, ttft_p95: 0.049 };
        assert_eq!(counted.measured, Some(Some(expected)));
        let quiet = count(Some(counted), &later, begin + STRETCH * 2, STRETCH);
        assert_eq!(quiet.measured, Some(None), "nobody asked lately");
    }

    #[test]
    fn a_gateway_that_is_new_to_us_counts_from_now_on() {
        let begin = Instant::now();
        let counted = count(None, &[], begin, STRETCH);
        let counted = count(Some(counted), &[heard("a", 1, 5000, &[5])], begin + STRETCH, STRETCH);
        assert_eq!(counted.measured, Some(None));
        let counted = count(Some(counted), &[heard("a", 1, 5100, &[6])], begin + STRETCH * 2, STRETCH);
        assert_eq!(counted.measured.unwrap().unwrap().tokens_per_second, 1.0);
    }

    #[test]
    fn two_digits_are_enough() {
        let cases = [(0.0, 0.0), (0.049_49, 0.049), (9.96, 10.0), (123.4, 120.0), (7.0, 7.0)];
        for (value, expected) in cases {
            assert!((two_digits(value) - expected).abs() < 1e-9, "{value}: {}", two_digits(value));
        }
    }
}
