//! Verdicts as tables: what is enough to take a release back, and what is not.

use super::*;
use expect_test::{Expect, expect};
use wharf_spec::service::Rollout;

fn policy(ttft_p95_ms: Option<u64>) -> Policy {
    Policy { ttft_p95_ms, ..Policy::from(&Rollout::default()) }
}

/// Failed requests of all; answers begin in the middle of bucket `bucket`.
fn sample(failed: u64, all: u64, bucket: usize) -> Sample {
    let mut first_token = vec![0; FIRST_TOKEN_BUCKETS_MS.len() + 1];
    first_token[bucket] = all - failed;
    Sample { answered: all - failed, failed, first_token }
}

fn check(candidate: &Sample, active: Option<&Sample>, limit_ms: Option<u64>, expected: &Expect) {
    expected.assert_eq(&format!("{:?}", judge(candidate, active, &policy(limit_ms))));
}

#[test]
fn more_failures_than_the_limit_are_bad() {
    check(
        &sample(3, 40, 3),
        None,
        None,
        &expect![[r#"Bad("3 of 40 requests failed (7.5%), more than rollbackOn.errorRate 1%")"#]],
    );
}

#[test]
fn few_requests_decide_nothing() {
    check(
        &sample(0, 3, 3),
        None,
        None,
        &expect![[r#"Open("only 3 of 20 requests were seen; nothing speaks against it")"#]],
    );
    check(
        &sample(19, 19, 3),
        None,
        None,
        &expect![[r#"Open("only 19 of 20 requests were seen; 19 of them failed")"#]],
    );
}

#[test]
fn a_single_failure_may_be_chance_and_two_are_not() {
    check(
        &sample(1, 20, 3),
        None,
        None,
        &expect![[
            r#"Open("1 of 20 requests failed (5%), over rollbackOn.errorRate 1% by what may be chance")"#
        ]],
    );
    check(
        &sample(2, 20, 3),
        None,
        None,
        &expect![[r#"Bad("2 of 20 requests failed (10%), more than rollbackOn.errorRate 1%")"#]],
    );
}

#[test]
fn a_client_that_fails_with_both_versions_takes_nothing_back() {
    check(
        &sample(20, 100, 3),
        Some(&sample(30, 150, 3)),
        None,
        &expect![[r#"Good("20 of 100 requests failed (20%), but 20% of the old version's do too")"#]],
    );
    // Much worse than the old one is bad all the same.
    check(
        &sample(40, 100, 3),
        Some(&sample(30, 150, 3)),
        None,
        &expect![[
            r#"Bad("40 of 100 requests failed (40%), more than rollbackOn.errorRate 1%; of the old version's, 20%")"#
        ]],
    );
    // Too few of the old one's requests excuse nothing.
    check(
        &sample(20, 100, 3),
        Some(&sample(5, 5, 3)),
        None,
        &expect![[r#"Bad("20 of 100 requests failed (20%), more than rollbackOn.errorRate 1%")"#]],
    );
    // Nothing is worse than a version that answers nobody.
    check(
        &sample(90, 100, 3),
        Some(&sample(20, 20, 3)),
        None,
        &expect![[r#"Good("90 of 100 requests failed (90%), but 100% of the old version's do too")"#]],
    );
}

#[test]
fn slow_first_tokens_are_bad() {
    check(
        &sample(0, 40, 8),
        None,
        Some(500),
        &expect![[r#"Bad("95% of first tokens came within 2 s, not 500 ms as rollbackOn.ttftP95 says")"#]],
    );
    check(
        &sample(0, 40, 4),
        None,
        Some(500),
        &expect![[r#"Good("none of 40 requests failed; 95% of first tokens came within 195 ms")"#]],
    );
    // Without a limit nobody is slow.
    check(&sample(0, 40, 8), None, None, &expect![[r#"Good("none of 40 requests failed")"#]]);
    // The old version is as slow: the model or the load is to blame.
    check(
        &sample(0, 40, 8),
        Some(&sample(0, 40, 8)),
        Some(500),
        &expect![[r#"Good("none of 40 requests failed; 95% of first tokens came within 2 s")"#]],
    );
}

#[test]
fn a_few_slow_answers_of_few_may_be_chance() {
    let mut some = sample(0, 20, 3);
    (some.first_token[3], some.first_token[9]) = (18, 2);
    check(
        &some,
        None,
        Some(500),
        &expect![[
            r#"Open("95% of first tokens came within 3.5 s, over rollbackOn.ttftP95 500 ms by what may be chance")"#
        ]],
    );
    (some.first_token[3], some.first_token[9]) = (15, 5);
    check(
        &some,
        None,
        Some(500),
        &expect![[r#"Bad("95% of first tokens came within 4.4 s, not 500 ms as rollbackOn.ttftP95 says")"#]],
    );
}

#[test]
fn doubt_about_errors_does_not_hide_slowness() {
    check(
        &sample(1, 21, 9),
        None,
        Some(500),
        &expect![[r#"Bad("95% of first tokens came within 4.9 s, not 500 ms as rollbackOn.ttftP95 says")"#]],
    );
}

#[test]
fn chance_is_that_of_the_binomial_distribution() {
    // P(X >= 1 | 20, 1%) = 18.2%, P(X >= 2) = 1.7%; P(X >= 16 | 1000, 1%) = 4.8%, P(X >= 15) = 8.2%.
    assert!(!beyond_chance(1, 20, 0.01) && beyond_chance(2, 20, 0.01));
    assert!(!beyond_chance(15, 1000, 0.01) && beyond_chance(16, 1000, 0.01));
    // With a limit of nothing, everything is beyond.
    assert!(beyond_chance(1, 20, 0.0));
    assert!(!beyond_chance(20, 20, 1.0));
    assert!(beyond_chance(1, 20_000, 0.5));
}

#[test]
fn numbers_are_written_as_people_say_them() {
    let percents = [0.0, 0.0001, 0.01, 0.075, 1.0].map(percent);
    assert_eq!(percents, ["0%", "less than 0.1%", "1%", "7.5%", "100%"]);
    assert_eq!([12.4, 999.0, 1500.0, 1_800_000.0].map(seconds), ["12 ms", "999 ms", "1.5 s", "30 min"]);
}
