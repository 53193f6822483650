//! Limits as one gateway keeps them.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::moment::Moment;

const SERVICE: &str = "default/assistant";

fn limiter() -> (Limiter, Moment) {
    // Noon of some day, so that tests cross midnight only when they want to.
    let now = Moment { unix_ms: 20_000 * 86_400_000 + 43_200_000, ..Moment::now() };
    (Limiter::new(Settings::default(), now), now)
}

fn asked(limits: Limits, tokens: u64) -> Asked<'static> {
    Asked { caller: "key:a", service: SERVICE, limits, together: Limits::default(), tokens }
}

fn requests(n: u64) -> Limits {
    Limits { requests_per_minute: Some(n), ..Limits::default() }
}

fn tokens(n: u64) -> Limits {
    Limits { tokens_per_minute: Some(n), ..Limits::default() }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_quiet_caller_has_all_of_its_minute_at_once_and_no_more() {
    let (limiter, now) = limiter();
    let five = asked(requests(5), 0);
    for left in (0..5).rev() {
        let level = limiter.reserve(now, &five).unwrap().standing().requests.unwrap();
        assert_eq!((level.limit, level.remaining), (5, left));
    }
    let full = limiter.reserve(now.after(seconds(20)), &five).unwrap_err();
    assert_eq!((full.limit, full.scope, full.cause), (Limit::Requests, Scope::Caller, Cause::Spent));
    assert_eq!(full.retry_after, seconds(41));
    assert_eq!(
        ApiError::from(full).to_string(),
        "the limit of 5 requests a minute for this key is reached; try again in 41 s"
    );
    assert!(limiter.reserve(now.after(seconds(60)), &five).is_err());
    assert!(limiter.reserve(now.after(seconds(61)), &five).is_ok());
}

#[test]
fn what_was_reserved_and_not_used_is_free_again() {
    let (limiter, now) = limiter();
    let limits = tokens(100);
    let held = limiter.reserve(now, &asked(limits, 90)).unwrap();
    let full = limiter.reserve(now, &asked(limits, 11)).unwrap_err();
    assert_eq!((full.limit, full.remaining), (Limit::Tokens, 10));
    held.settle(30);
    let mut abandoned = limiter.reserve(now, &asked(limits, 70)).unwrap();
    abandoned.used(20);
    drop(abandoned);
    let level = limiter.reserve(now, &asked(limits, 50)).unwrap().standing().tokens.unwrap();
    assert_eq!(level.remaining, 0);
}

#[test]
fn more_than_was_reserved_counts_too() {
    let (limiter, now) = limiter();
    limiter.reserve(now, &asked(tokens(100), 10)).unwrap().settle(250);
    let full = limiter.reserve(now.after(seconds(60)), &asked(tokens(100), 1)).unwrap_err();
    assert_eq!((full.remaining, full.retry_after), (0, seconds(1)));
    assert!(limiter.reserve(now.after(seconds(61)), &asked(tokens(100), 100)).is_ok());
}

#[test]
fn a_stream_that_ends_after_its_minute_gives_nothing_back() {
    let (limiter, now) = limiter();
    let long = limiter.reserve(now, &asked(tokens(100), 100)).unwrap();
    let later = now.after(seconds(61));
    let _other = limiter.reserve(later, &asked(tokens(100), 100)).unwrap();
    long.settle(1);
    assert!(limiter.reserve(later, &asked(tokens(100), 1)).is_err());
}

#[test]
fn streams_are_counted_while_they_last() {
    let (limiter, now) = limiter();
    let two = asked(Limits { concurrent: Some(2), ..Limits::default() }, 0);
    let first = limiter.reserve(now, &two).unwrap();
    let _second = limiter.reserve(now, &two).unwrap();
    let full = limiter.reserve(now.after(seconds(3600)), &two).unwrap_err();
    assert_eq!((full.limit, full.retry_after), (Limit::Concurrent, seconds(1)));
    drop(first);
    assert!(limiter.reserve(now, &two).is_ok());
}

#[test]
fn a_budget_is_renewed_at_midnight() {
    let (limiter, now) = limiter();
    let budget = Limits { tokens_per_day: Some(100), ..Limits::default() };
    let running = limiter.reserve(now, &asked(budget, 60)).unwrap();
    limiter.reserve(now, &asked(budget, 40)).unwrap().settle(40);
    let full = limiter.reserve(now.after(seconds(60)), &asked(budget, 1)).unwrap_err();
    assert_eq!((full.limit, full.retry_after), (Limit::Day, seconds(12 * 3600 - 60)));
    let error = ApiError::from(full);
    assert_eq!((error.status(), error.code()), (429, Some("insufficient_quota")));
    let tomorrow = now.after(seconds(12 * 3600));
    limiter.reserve(tomorrow, &asked(budget, 100)).unwrap().settle(100);
    // What began yesterday gives nothing back to today.
    drop(running);
    assert!(limiter.reserve(tomorrow, &asked(budget, 1)).is_err());
    assert!(limiter.reserve(now, &asked(budget, 1)).is_err(), "a clock that is set back renews nothing");
}

#[test]
fn a_request_that_never_fits_is_told_so() {
    let (limiter, now) = limiter();
    let full = limiter.reserve(now, &asked(tokens(100), 101)).unwrap_err();
    assert_eq!(full.cause, Cause::TooLarge);
    assert!(full.to_string().contains("lower max_tokens"), "{full}");
}

#[test]
fn everybody_together_have_a_limit_too() {
    let (limiter, now) = limiter();
    let ask = |caller| Asked { caller, together: requests(3), ..asked(requests(2), 0) };
    for caller in ["a", "a", "b"] {
        limiter.reserve(now, &ask(caller)).unwrap().settle(0);
    }
    assert_eq!(limiter.reserve(now, &ask("a")).unwrap_err().scope, Scope::Caller);
    assert_eq!(limiter.reserve(now, &ask("b")).unwrap_err().scope, Scope::Service);
    let elsewhere = Asked { service: "default/other", ..ask("a") };
    assert!(limiter.reserve(now, &elsewhere).is_ok(), "services are counted apart");
}

#[test]
fn a_refusal_uses_nothing_of_other_limits() {
    let (limiter, now) = limiter();
    let both = Limits { requests_per_minute: Some(2), tokens_per_minute: Some(10), ..Limits::default() };
    for _ in 0..5 {
        assert_eq!(limiter.reserve(now, &asked(both, 11)).unwrap_err().limit, Limit::Tokens);
    }
    limiter.reserve(now, &asked(both, 1)).unwrap().settle(1);
    limiter.reserve(now, &asked(both, 1)).unwrap().settle(1);
    assert_eq!(limiter.reserve(now, &asked(both, 1)).unwrap_err().limit, Limit::Requests);
}

#[test]
fn a_changed_limit_holds_at_once() {
    let (limiter, now) = limiter();
    limiter.reserve(now, &asked(requests(2), 0)).unwrap().settle(0);
    assert!(limiter.reserve(now, &asked(requests(1), 0)).is_err());
    assert!(limiter.reserve(now, &asked(requests(3), 0)).is_ok());
    assert!(limiter.reserve(now, &asked(requests(0), 0)).is_err());
    assert!(limiter.reserve(now, &asked(Limits::default(), 0)).is_ok());
}

#[test]
fn callers_that_are_counted_are_bounded_and_idle_ones_make_room() {
    let now = Moment::now();
    let limiter = Limiter::new(Settings { max_callers: 2, ..Settings::default() }, now);
    let ask = |caller| Asked { caller, ..asked(requests(5), 0) };
    limiter.reserve(now, &ask("a")).unwrap().settle(0);
    limiter.reserve(now, &ask("b")).unwrap().settle(0);
    let full = limiter.reserve(now, &ask("c")).unwrap_err();
    assert_eq!((full.cause, limiter.callers()), (Cause::TooManyCallers, 2));
    assert!(limiter.reserve(now.after(seconds(61)), &ask("c")).is_ok());
    limiter.report(now.after(seconds(200)));
    assert_eq!(limiter.callers(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Reserve(u64),
    Settle(usize, u64),
    Abandon(usize, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u64..20_000).prop_map(Step::Wait),
        (1u64..120).prop_map(Step::Reserve),
        (0usize..8, 0u64..1000).prop_map(|(i, part)| Step::Settle(i, part)),
        (0usize..8, 0u64..1000).prop_map(|(i, part)| Step::Abandon(i, part)),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    /// Whatever requests do, as long as they use no more than they reserved, no sixty seconds have more than the limit.
    #[test]
    fn no_minute_has_more_than_the_limit(steps in steps()) {
        const LIMIT: u64 = 200;
        let (limiter, mut now) = limiter();
        let mut open = Vec::new();
        // Time of each reservation and what it used in the end.
        let mut uses: Vec<(u64, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(ms) => now = now.after(Duration::from_millis(ms)),
                Step::Reserve(amount) => if let Ok(reservation) = limiter.reserve(now, &asked(tokens(LIMIT), amount)) {
                    uses.push((now.unix_ms, amount));
                    open.push((reservation, uses.len() - 1));
                },
                Step::Settle(i, part) | Step::Abandon(i, part) if i < open.len() => {
                    let (mut reservation, at) = open.swap_remove(i);
                    let used = uses[at].1 * part / 1000;
                    uses[at].1 = used;
                    if matches!(step, Step::Settle(..)) {
                        reservation.settle(used);
                    } else {
                        reservation.used(used);
                    }
                }
                Step::Settle(..) | Step::Abandon(..) => {}
            }
            let minute: u64 = uses.iter().filter(|u| u.0 + 60_000 > now.unix_ms).map(|u| u.1).sum();
            prop_assert!(minute <= LIMIT, "{minute}");
        }
    }

    /// What is left is the limit without what counts, at every moment: nothing is lost and nothing is made.
    #[test]
    fn reserving_settling_and_abandoning_conserve(steps in steps()) {
        const LIMIT: u64 = 500;
        let (limiter, now) = limiter();
        let budget = Limits { tokens_per_day: Some(LIMIT), ..Limits::default() };
        let mut open = Vec::new();
        let mut used = 0;
        for step in steps {
            match step {
                Step::Wait(_) => {}
                Step::Reserve(amount) => {
                    let fits = used + open.iter().map(|(_, amount)| amount).sum::<u64>() + amount <= LIMIT;
                    let reservation = limiter.reserve(now, &asked(budget, amount));
                    prop_assert_eq!(reservation.is_ok(), fits);
                    open.extend(reservation.ok().map(|reservation| (reservation, amount)));
                }
                Step::Settle(i, part) | Step::Abandon(i, part) if i < open.len() => {
                    let (mut reservation, amount): (Reservation, u64) = open.swap_remove(i);
                    // A settled request may have used more than it reserved.
                    let actual = if matches!(step, Step::Settle(..)) { part } else { amount * part / 1000 };
                    used += actual;
                    reservation.used(actual);
                }
                Step::Settle(..) | Step::Abandon(..) => {}
            }
        }
    }

    #[test]
    fn any_limits_are_read_or_refused(text in "\\PC*|\\{\"requestsPerMinute\": ?[\"0-9kMG.e+-]*\\}") {
        drop(serde_json::from_str::<Limits>(&text));
        let _ = count::parse(&text);
    }
}
