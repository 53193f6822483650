//! Several gateways, one limit: a simulation of traffic, of reports that come late and out of order, and of gateways that come and go.

use std::time::Duration;

use super::*;
use crate::limits::{Asked, Cause, Limiter, Limits, Reservation, Settings};
use crate::moment::Moment;

const STEP_MS: u64 = 10;
/// Reports take between these.
const LATE_MS: std::ops::Range<u64> = 200..2_000;

/// A gateway that may come late and leave early.
#[derive(Clone, Copy)]
struct Gateway {
    from_s: u64,
    to_s: u64,
    /// Its name; two lives of one gateway share it.
    name: &'static str,
}

const NAMES: [&str; 5] = ["gw-a", "gw-b", "gw-c", "gw-d", "gw-e"];

fn steady(n: usize) -> Vec<Gateway> {
    NAMES[..n].iter().map(|name| Gateway { from_s: 0, to_s: u64::MAX, name }).collect()
}

/// Requests a second by gateway and second.
type Rate = fn(usize, u64) -> f64;

/// What is tried out.
struct Trial {
    limits: Limits,
    gateways: Vec<Gateway>,
    /// Requests a second at the gateway of this index, at this second.
    rate: Rate,
    /// Tokens of a request: at least, at most.
    tokens: (u64, u64),
    /// Whether gateways are told who should be there.
    discovery: bool,
    seconds: u64,
}

/// When requests were let in, in milliseconds, and the tokens that they used.
struct Outcome(Vec<(u64, u64)>);

impl Outcome {
    fn requests(&self, from_s: u64, to_s: u64) -> f64 {
        self.0.iter().filter(|(ms, _)| (from_s * 1000..to_s * 1000).contains(ms)).count() as f64
    }

    fn tokens(&self, from_s: u64, to_s: u64) -> f64 {
        self.0.iter().filter(|(ms, _)| (from_s * 1000..to_s * 1000).contains(ms)).map(|u| u.1).sum::<u64>()
            as f64
    }
}

struct Running {
    limiter: Limiter,
    open: Vec<(u64, u64, Reservation)>,
    due: f64,
}

impl Trial {
    fn run(&self) -> Outcome {
        let start = Moment { unix_ms: 20_000 * 86_400_000, ..Moment::now() };
        let mut random = fastrand::Rng::with_seed(7);
        let mut running: Vec<Option<Running>> = self.gateways.iter().map(|_| None).collect();
        let mut mail: Vec<(u64, usize, UsageReport)> = Vec::new();
        let mut let_in = Vec::new();
        for ms in (0..self.seconds * 1000).step_by(STEP_MS as usize) {
            let now = start.after(Duration::from_millis(ms));
            self.come_and_go(ms, now, &mut running);
            for (at, report) in exchange(ms, now, &running) {
                for to in (0..running.len()).filter(|&to| to != at) {
                    mail.push((ms + random.u64(LATE_MS), to, report.clone()));
                }
            }
            mail.retain(|(due, to, report)| {
                if *due <= ms {
                    // As it would come over the wire.
                    let report = serde_json::from_str(&serde_json::to_string(report).unwrap()).unwrap();
                    running[*to].as_ref().map(|gateway| gateway.limiter.merge(now, &report));
                }
                *due > ms
            });
            for (i, gateway) in running.iter_mut().enumerate() {
                let Some(gateway) = gateway else { continue };
                gateway.open.retain_mut(|(end, used, reservation)| {
                    reservation.used(*used);
                    *end > ms
                });
                gateway.due += (self.rate)(i, ms / 1000) * STEP_MS as f64 / 1000.0 * 2.0 * random.f64();
                while gateway.due >= 1.0 {
                    gateway.due -= 1.0;
                    let used = random.u64(self.tokens.0..=self.tokens.1);
                    let together = Limits::default();
                    // Estimates are too high, as they are where answers may be long.
                    let tokens = used + used / 4;
                    let asked =
                        Asked { caller: "key:a", service: "s", limits: self.limits, together, tokens };
                    if let Ok(reservation) = gateway.limiter.reserve(now, &asked) {
                        let_in.push((ms, used));
                        gateway.open.push((ms + random.u64(100..3000), used, reservation));
                    }
                }
            }
        }
        Outcome(let_in)
    }

    fn come_and_go(&self, ms: u64, now: Moment, running: &mut [Option<Running>]) {
        for (i, &at) in self.gateways.iter().enumerate() {
            let lives = (at.from_s * 1000..at.to_s.saturating_mul(1000)).contains(&ms);
            if lives && running[i].is_none() {
                let settings = Settings { gateway: at.name.to_owned(), ..Settings::default() };
                let limiter = Limiter::new(settings, now);
                limiter.gateways(now, &self.names(ms));
                running[i] = Some(Running { limiter, open: Vec::new(), due: 0.0 });
            } else if !lives {
                running[i] = None;
            }
        }
        // Discovery learns of it within a second.
        if ms.is_multiple_of(1000) && self.discovery {
            for gateway in running.iter().flatten() {
                gateway.limiter.gateways(now, &self.names(ms.saturating_sub(1000)));
            }
        }
    }

    fn names(&self, ms: u64) -> Vec<String> {
        let there = |at: &&Gateway| (at.from_s * 1000..at.to_s.saturating_mul(1000)).contains(&ms);
        if self.discovery {
            self.gateways.iter().filter(there).map(|at| at.name.to_owned()).collect()
        } else {
            vec![]
        }
    }
}

/// Reports that are due.
fn exchange(ms: u64, now: Moment, running: &[Option<Running>]) -> Vec<(usize, UsageReport)> {
    let every = REPORT_EVERY.as_millis() as u64 / STEP_MS * STEP_MS;
    let due = |i: usize| ms % every == i as u64 * STEP_MS;
    let all = running.iter().enumerate().filter(|(i, _)| due(*i));
    all.filter_map(|(i, gateway)| Some((i, gateway.as_ref()?.limiter.report(now)))).collect()
}

/// Holds that no minute has more than the limit and a tenth, and that the whole time has no less than nine tenths of what one gateway
/// would let in: the limit at once, and again whenever a minute and the second that it began in are over.
#[track_caller]
fn check_minutes(name: &str, trial: &Trial, limit: f64, what: fn(&Outcome, u64, u64) -> f64) {
    let outcome = trial.run();
    let most = (0..=trial.seconds - 60).map(|s| what(&outcome, s, s + 60) / limit).fold(0.0, f64::max);
    let minutes = trial.seconds.div_ceil(61) as f64;
    let all = what(&outcome, 0, trial.seconds) / limit / minutes;
    println!("{name}: {:.1}% of the limit, at most {:.1}% in a minute", all * 100.0, most * 100.0);
    assert!(most <= 1.10, "{name}: a minute has {most}");
    assert!(all >= 0.90, "{name}: all have {all}");
}

fn even(_: usize, _: u64) -> f64 {
    20.0
}

fn skewed(gateway: usize, _: u64) -> f64 {
    if gateway == 0 { 60.0 } else { 0.5 }
}

fn one_only(gateway: usize, _: u64) -> f64 {
    if gateway == 1 { 40.0 } else { 0.0 }
}

fn wandering(gateway: usize, second: u64) -> f64 {
    if second / 17 % 5 == gateway as u64 { 50.0 } else { 1.0 }
}

fn gentle(gateway: usize, _: u64) -> f64 {
    if gateway == 0 { 9.0 } else { 2.0 }
}

fn requests(n: u64) -> Limits {
    Limits { requests_per_minute: Some(n), ..Limits::default() }
}

#[test]
fn a_limit_of_requests_holds_over_all_gateways() {
    let rates: [(&str, Rate); 5] = [
        ("even", even),
        ("skewed", skewed),
        ("one only", one_only),
        ("wandering", wandering),
        ("gentle", gentle),
    ];
    for n in [1, 2, 5] {
        for (name, rate) in rates {
            // What nobody sends cannot be let in.
            if (n == 1 && name != "even" && name != "skewed") || (name == "wandering" && n < 5) {
                continue;
            }
            let seconds = 300;
            let trial = Trial {
                limits: requests(600),
                gateways: steady(n),
                rate,
                tokens: (1, 1),
                discovery: true,
                seconds,
            };
            check_minutes(&format!("{n} gateways, {name}"), &trial, 600.0, Outcome::requests);
        }
    }
}

#[test]
fn a_small_limit_loses_no_request_between_gateways() {
    for n in [1, 2, 5] {
        let seconds = 300;
        let trial = Trial {
            limits: requests(20),
            gateways: steady(n),
            rate: even,
            tokens: (1, 1),
            discovery: true,
            seconds,
        };
        check_minutes(&format!("{n} gateways, 20 requests"), &trial, 20.0, Outcome::requests);
    }
}

#[test]
fn a_limit_of_tokens_holds_over_all_gateways() {
    let rates: [(&str, Rate); 3] = [("even", even), ("skewed", skewed), ("one only", one_only)];
    for n in [2, 5] {
        for (name, rate) in rates {
            let limits = Limits { tokens_per_minute: Some(200_000), ..Limits::default() };
            let seconds = 300;
            let trial =
                Trial { limits, gateways: steady(n), rate, tokens: (100, 2_000), discovery: true, seconds };
            check_minutes(&format!("{n} gateways, {name}"), &trial, 200_000.0, Outcome::tokens);
        }
    }
}

#[test]
fn limits_hold_while_gateways_are_lost_and_join() {
    for discovery in [true, false] {
        let mut gateways = steady(5);
        gateways[0].to_s = 70;
        gateways[3].from_s = 100;
        // One that starts again under its name, at once.
        gateways[1].to_s = 150;
        gateways[4] = Gateway { from_s: 150, to_s: u64::MAX, name: NAMES[1] };
        let seconds = 400;
        let trial = Trial { limits: requests(600), gateways, rate: even, tokens: (1, 1), discovery, seconds };
        check_minutes(&format!("discovery: {discovery}"), &trial, 600.0, Outcome::requests);
    }
}

#[test]
fn a_days_budget_holds_over_all_gateways_and_their_lives() {
    for (name, lost) in [("steady", false), ("lost and joined", true)] {
        let mut gateways = steady(5);
        if lost {
            gateways[0].to_s = 40;
            gateways[3].from_s = 60;
            gateways[1].to_s = 80;
            gateways[4] = Gateway { from_s: 81, to_s: u64::MAX, name: NAMES[1] };
        }
        let budget = 4_000_000;
        let limits = Limits { tokens_per_day: Some(budget), ..Limits::default() };
        let seconds = 400;
        let trial = Trial { limits, gateways, rate: even, tokens: (50, 500), discovery: true, seconds };
        let share = trial.run().tokens(0, seconds) / budget as f64;
        println!("{name}: {:.1}% of the budget", share * 100.0);
        assert!((0.9..=1.1).contains(&share), "{name}: {share}");
    }
}

#[test]
fn a_gateway_that_hears_nobody_keeps_to_its_part() {
    let start = Moment::now();
    let limiter = Limiter::new(Settings { gateway: "gw-a".into(), ..Settings::default() }, start);
    limiter.gateways(start, &NAMES.map(str::to_owned));
    let ask = |now| {
        let asked = Asked {
            caller: "k",
            service: "s",
            limits: requests(100),
            together: Limits::default(),
            tokens: 0,
        };
        limiter.reserve(now, &asked).map(|reservation| reservation.settle(0))
    };
    let count = |now| (0..100).take_while(|_| ask(now).is_ok()).count();
    assert!(!limiter.is_settled(start));
    assert_eq!(count(start), 2, "others may have used everything before we came");
    let later = start.after(LEASE + Duration::from_millis(100));
    assert!(limiter.is_settled(later));
    assert_eq!(count(later), 18);
    assert_eq!(ask(later).unwrap_err().cause, Cause::HeldElsewhere);
}

#[test]
fn reports_may_come_twice_and_in_any_order() {
    let start = Moment::now();
    let [a, b] =
        ["a", "b"].map(|name| Limiter::new(Settings { gateway: name.into(), ..Settings::default() }, start));
    let asked =
        Asked { caller: "k", service: "s", limits: requests(10), together: Limits::default(), tokens: 0 };
    assert!(b.merge(start, &a.report(start)));
    let first = b.report(start);
    b.reserve(start, &asked).unwrap().settle(0);
    let second = b.report(start);
    assert!(a.merge(start, &second));
    for old in [&first, &second] {
        assert!(!a.merge(start, old));
    }
    let level = a.reserve(start, &asked).unwrap().standing().requests.unwrap();
    assert_eq!(level.remaining, 8);
    assert!(!a.merge(start, &a.report(start)), "our own words are no news");
}

#[test]
fn a_report_that_was_kept_brings_the_budget_back() {
    let start = Moment { unix_ms: 20_000 * 86_400_000, ..Moment::now() };
    let settings = || Settings { gateway: "local".into(), ..Settings::default() };
    let budget = Limits { tokens_per_day: Some(100), ..Limits::default() };
    let asked = Asked { caller: "k", service: "s", limits: budget, together: Limits::default(), tokens: 70 };
    let before = Limiter::new(settings(), start);
    before.reserve(start, &asked).unwrap().settle(70);
    let kept = before.report(start);
    let later = start.after(Duration::from_secs(3600));
    let after = Limiter::new(settings(), later);
    assert!(after.merge(later, &kept));
    assert_eq!(after.reserve(later, &asked).unwrap_err().remaining, 30);
    let tomorrow = start.after(Duration::from_secs(24 * 3600));
    assert!(after.reserve(tomorrow, &asked).is_ok());
}

#[test]
fn foreign_numbers_break_nothing() {
    let start = Moment::now();
    let a = Limiter::new(Settings::default(), start);
    let asked =
        Asked { caller: "k", service: "s", limits: requests(10), together: Limits::default(), tokens: 0 };
    a.reserve(start, &asked).unwrap().settle(0);
    let text = r#"{"gateway":"x","epoch":1,"sequence":1,"meters":[{"service":"s","caller":"k","pools":{"requests":
        {"limit":18446744073709551615,"used":18446744073709551615,"held":18446744073709551615,"wanted":-1e308,
         "need":18446744073709551615,"leaving":[18446744073709551615,1],"gone":{"":{"used":1,"age_ms":2},"y/18446744073709551615":
         {"used":18446744073709551615,"age_ms":18446744073709551615},"local/99999999999999999":{"used":5,"age_ms":0}}},
        "day":{"used":18446744073709551615,"wanted":1e308,"limit":18446744073709551615}}}]}"#;
    let report = serde_json::from_str(text).unwrap();
    assert!(a.merge(start, &report));
    assert!(a.reserve(start, &asked).is_err());
    a.report(start);
    let later = start.after(Duration::from_secs(200));
    a.report(later);
    assert!(a.reserve(later, &asked).is_ok());
}

#[test]
fn the_exchange_has_a_known_form() {
    let start = Moment { unix_ms: 1_000, ..Moment::now() };
    let a = Limiter::new(Settings { gateway: "gw-0".into(), ..Settings::default() }, start);
    let limits = Limits { tokens_per_day: Some(1_000), ..requests(10) };
    let asked =
        Asked { caller: "key:k", service: "default/s", limits, together: Limits::default(), tokens: 5 };
    a.reserve(start, &asked).unwrap().settle(5);
    expect_test::expect![[r#"{"gateway":"gw-0","epoch":1000,"sequence":1,"meters":[{"service":"default/s","caller":"key:k","pools":{"requests":{"limit":10,"used":1,"leaving":[0,0,0,0,0,1],"held":9,"wanted":1.0},"day":{"limit":1000,"used":5,"held":995,"wanted":5.0}}}]}"#]].assert_eq(&serde_json::to_string(&a.report(start)).unwrap());
}
