//! One service's demand, summed over the gateways that live. It reads lines; it decides nothing.
//!
//! Every line says everything its gateway knows, so lines may be lost, repeated or late: a line that is not newer than the last one of its
//! gateway is ignored. Counters are summed by what each line added.

use std::collections::BTreeMap;
use std::time::Duration;

use wharf_api::demand::{DemandReport, EndpointLoad, ServiceDemand};

use crate::history::{Counters, FIRST_TOKEN, Gauges, History, Load, Windows};
use crate::{Now, Policy};

/// Gateways that are remembered after their lease ended, so their counters go on when they come back.
const MOST_GATEWAYS: usize = 1024;

/// The demand on one service.
#[derive(Clone, Debug)]
pub struct Demand {
    service: String,
    gateways: BTreeMap<String, Gateway>,
    /// Gateways that started after this count from zero: we have seen their whole life. In milliseconds since 1970.
    whole_since: u64,
    history: History,
}

#[derive(Clone, Debug)]
struct Gateway {
    epoch: u64,
    sequence: u64,
    seen: Duration,
    expires: Duration,
    /// As of its last line that knew the service; kept when the lease ends.
    counters: Counters,
    /// While its lease lasts.
    live: Option<Live>,
}

#[derive(Clone, Debug, Default)]
struct Live {
    gauges: Gauges,
    oldest_wait: Duration,
    endpoints: BTreeMap<String, EndpointLoad>,
}

impl Demand {
    /// The demand on `service` (`namespace/name`) from `now` on.
    pub fn new(service: &str, windows: Windows, now: Now) -> Demand {
        Demand {
            service: service.to_owned(),
            gateways: BTreeMap::new(),
            whole_since: u64::try_from(now.wall.as_millisecond()).unwrap_or(0),
            history: History::new(windows),
        }
    }

    /// With the windows of a policy.
    pub fn for_policy(service: &str, policy: &Policy, now: Now) -> Demand {
        let stable = policy.stable_window;
        Demand::new(service, Windows { stable, panic: stable.mul_f64(policy.panic_window) }, now)
    }

    /// Takes a line in; says whether it was news.
    pub fn observe(&mut self, report: &DemandReport, now: Now) -> bool {
        let now = now.elapsed;
        self.expire(now);
        let DemandReport { gateway: name, epoch, sequence, lease_ms, services } = report;
        let known = self.gateways.get(name);
        if known.is_some_and(|g| (g.epoch, g.sequence) >= (*epoch, *sequence)) {
            return false;
        }
        let demand = services.get(&self.service);
        let counters = demand.map(counters);
        let before = match known {
            Some(g) if g.epoch == *epoch => g.counters,
            Some(_) => Counters::default(),
            None if *epoch >= self.whole_since => Counters::default(),
            // What it counted before we came did not happen now.
            None => counters.unwrap_or_default(),
        };
        let added = counters.unwrap_or(before).since(&before);
        let gateway = Gateway {
            epoch: *epoch,
            sequence: *sequence,
            seen: now,
            expires: now + Duration::from_millis(*lease_ms),
            counters: counters.unwrap_or(before),
            live: Some(demand.map(live).unwrap_or_default()),
        };
        self.gateways.insert(name.clone(), gateway);
        self.forget_the_longest_gone();
        self.history.count(now, &added);
        let gauges = self.gauges();
        self.history.set(now, gauges);
        true
    }

    /// The load at a moment; none while no gateway lives.
    pub fn load(&mut self, now: Now) -> Option<Load> {
        let elapsed = now.elapsed;
        self.expire(elapsed);
        self.history.advance(elapsed);
        let latest = self.history.latest()?;
        let Windows { stable, panic } = self.history.windows();
        let lives = self.gateways.values().filter_map(|g| g.live.as_ref());
        Some(Load {
            latest,
            stable: self.history.window(elapsed, stable),
            panic: self.history.window(elapsed, panic),
            arrived: self.history.total.arrived,
            ttft_p95: self.history.ttft_p95(elapsed),
            oldest_wait: lives.map(|l| l.oldest_wait).max().unwrap_or_default(),
        })
    }

    /// Ends leases in the order in which they end, so that each moment counts what was known then.
    fn expire(&mut self, now: Duration) {
        loop {
            let ends = self.gateways.values().filter(|g| g.live.is_some()).map(|g| g.expires).min();
            let Some(end) = ends.filter(|end| *end <= now) else { return };
            self.gateways.values_mut().filter(|g| g.expires <= end).for_each(|g| g.live = None);
            let gauges = self.gauges();
            self.history.set(end, gauges);
        }
    }

    /// Sums over gateways; an endpoint that several of them read counts once, as the latest line has it.
    fn gauges(&self) -> Option<Gauges> {
        let mut lives: Vec<_> =
            self.gateways.values().filter_map(|g| Some((g.seen, g.live.as_ref()?))).collect();
        if lives.is_empty() {
            return None;
        }
        lives.sort_by_key(|(seen, _)| *seen);
        let mut sum = Gauges::default();
        let mut endpoints = BTreeMap::new();
        for (_, live) in lives {
            sum.in_flight += live.gauges.in_flight;
            sum.queued += live.gauges.queued;
            sum.tokens_in_flight += live.gauges.tokens_in_flight;
            endpoints.extend(&live.endpoints);
        }
        for load in endpoints.values() {
            sum.waiting += f64::from(load.waiting);
            if load.ready {
                sum.endpoints += 1.0;
                // A broken gauge must not break the sum.
                sum.kv_cache += if load.kv_cache.is_finite() { load.kv_cache.clamp(0.0, 1.0) } else { 0.0 };
            }
        }
        Some(sum)
    }

    fn forget_the_longest_gone(&mut self) {
        while self.gateways.len() > MOST_GATEWAYS {
            let gone = self.gateways.iter().min_by_key(|(_, g)| (g.live.is_some(), g.expires));
            let Some((name, epoch)) = gone.map(|(name, g)| (name.clone(), g.epoch)) else { return };
            self.gateways.remove(&name);
            // Should it come back, what it counted must not be counted again.
            self.whole_since = self.whole_since.max(epoch.saturating_add(1));
        }
    }
}

fn counters(demand: &ServiceDemand) -> Counters {
    let mut first_token = [0; FIRST_TOKEN];
    for (to, from) in first_token.iter_mut().zip(&demand.first_token) {
        *to = *from;
    }
    Counters { arrived: demand.arrived, answered: demand.answered, first_token }
}

fn live(demand: &ServiceDemand) -> Live {
    Live {
        gauges: Gauges {
            in_flight: demand.in_flight as f64,
            queued: demand.queued as f64,
            tokens_in_flight: demand.tokens_in_flight as f64,
            ..Gauges::default()
        },
        oldest_wait: Duration::from_millis(demand.oldest_wait_ms),
        endpoints: demand.endpoints.clone(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    const BEGAN_MS: u64 = 1_000_000;

    fn at(ms: u64) -> Now {
        Now::after(Timestamp::from_millisecond(BEGAN_MS as i64).unwrap(), Duration::from_millis(ms))
    }

    fn demand() -> Demand {
        Demand::for_policy("a/b", &Policy::default(), at(0))
    }

    fn line(gateway: &str, epoch: u64, sequence: u64, service: ServiceDemand) -> DemandReport {
        let services = BTreeMap::from([("a/b".to_owned(), service)]);
        DemandReport { gateway: gateway.to_owned(), epoch, sequence, lease_ms: 3000, services }
    }

    fn arrived(arrived: u64) -> ServiceDemand {
        ServiceDemand { arrived, ..ServiceDemand::default() }
    }

    fn held(queued: u64, in_flight: u64) -> ServiceDemand {
        ServiceDemand { queued, in_flight, ..ServiceDemand::default() }
    }

    #[test]
    fn gauges_are_summed_over_the_gateways_that_live() {
        let mut demand = demand();
        assert_eq!(demand.load(at(0)), None);
        demand.observe(&line("g1", 1, 1, held(2, 5)), at(0));
        demand.observe(&line("g2", 1, 1, held(1, 4)), at(2000));
        let latest =
            |demand: &mut Demand, ms| demand.load(at(ms)).map(|l| (l.latest.queued, l.latest.in_flight));
        assert_eq!(latest(&mut demand, 2000), Some((3.0, 9.0)));
        // The lease of g1 ends at 3000, that of g2 at 5000.
        assert_eq!(latest(&mut demand, 3000), Some((1.0, 4.0)));
        assert_eq!(latest(&mut demand, 5000), None);
        let mean = demand.clone();
        drop(mean);
        demand.observe(&line("g1", 1, 2, held(0, 0)), at(6000));
        assert_eq!(latest(&mut demand, 6000), Some((0.0, 0.0)));
    }

    #[test]
    fn late_and_repeated_lines_are_ignored() {
        let mut demand = demand();
        assert!(demand.observe(&line("g", 5, 7, held(1, 0)), at(0)));
        assert!(!demand.observe(&line("g", 5, 7, held(9, 9)), at(1)));
        assert!(!demand.observe(&line("g", 5, 6, held(9, 9)), at(2)));
        // From a life before.
        assert!(!demand.observe(&line("g", 4, 99, held(9, 9)), at(3)));
        assert_eq!(demand.load(at(4)).unwrap().latest.queued, 1.0);
        assert!(demand.observe(&line("g", 6, 1, held(2, 0)), at(5)));
        assert_eq!(demand.load(at(5)).unwrap().latest.queued, 2.0);
    }

    #[test]
    fn counters_survive_lost_lines_new_lives_and_ended_leases() {
        let mut demand = demand();
        let total = |demand: &mut Demand, ms| demand.load(at(ms)).unwrap().arrived;
        // It has run since before we came: what it counted is no demand of now.
        demand.observe(&line("old", 5, 1, arrived(1000)), at(0));
        assert_eq!(total(&mut demand, 0), 0);
        // Lines 2 to 8 were lost.
        demand.observe(&line("old", 5, 9, arrived(1010)), at(100));
        assert_eq!(total(&mut demand, 100), 10);
        // It starts again, and counts from zero.
        demand.observe(&line("old", 6, 1, arrived(3)), at(200));
        assert_eq!(total(&mut demand, 200), 13);
        // It falls silent beyond its lease, and comes back.
        demand.observe(&line("old", 6, 2, arrived(8)), at(60_000));
        assert_eq!(total(&mut demand, 60_000), 18);
        // A gateway that was born after us counts from its first line.
        demand.observe(&line("new", BEGAN_MS + 5, 1, arrived(4)), at(60_000));
        assert_eq!(total(&mut demand, 60_000), 22);
        // A counter that goes back is broken, not negative.
        demand.observe(&line("new", BEGAN_MS + 5, 2, arrived(1)), at(60_001));
        assert_eq!(total(&mut demand, 60_001), 22);
        // A line that does not mention the service keeps its counters.
        let silent = DemandReport { services: BTreeMap::new(), ..line("old", 6, 3, arrived(0)) };
        demand.observe(&silent, at(60_002));
        demand.observe(&line("old", 6, 4, arrived(9)), at(60_003));
        assert_eq!(total(&mut demand, 60_003), 23);
    }

    #[test]
    fn an_endpoint_that_two_gateways_read_counts_once() {
        let mut demand = demand();
        let seen = |loads: &[(&str, f64, u32, bool)]| ServiceDemand {
            endpoints: loads
                .iter()
                .map(|&(name, kv_cache, waiting, ready)| {
                    (name.to_owned(), EndpointLoad { ready, running: 1, waiting, kv_cache })
                })
                .collect(),
            ..ServiceDemand::default()
        };
        demand.observe(&line("g1", 1, 1, seen(&[("pod-1", 0.9, 7, true), ("pod-2", 0.5, 2, true)])), at(0));
        demand.observe(&line("g2", 1, 1, seen(&[("pod-1", 0.2, 3, true), ("pod-3", 1.0, 1, false)])), at(1));
        let latest = demand.load(at(1)).unwrap().latest;
        assert_eq!((latest.endpoints, latest.waiting), (2.0, 6.0));
        assert!((latest.kv_cache - 0.7).abs() < 1e-9);
    }

    #[test]
    fn rates_and_the_tail_of_first_tokens_come_from_what_lines_add() {
        let mut demand = demand();
        let mut first_token = vec![0; FIRST_TOKEN];
        for second in 1..=120 {
            // Slow at first: nothing of that remains after a minute.
            first_token[if second < 50 { 12 } else { 4 }] += 10;
            let service = ServiceDemand {
                arrived: 10 * second,
                answered: 10 * second,
                first_token: first_token.clone(),
                ..ServiceDemand::default()
            };
            demand.observe(&line("g", 1, second, service), at(second * 1000));
        }
        let load = demand.load(at(120_000)).unwrap();
        assert!((load.stable.arrivals - 10.0).abs() < 0.3, "{}", load.stable.arrivals);
        assert!((load.panic.answers - 10.0).abs() < 2.0, "{}", load.panic.answers);
        let p95 = load.ttft_p95.unwrap();
        assert!(p95 > Duration::from_millis(190) && p95 < Duration::from_millis(200), "{p95:?}");
    }

    #[test]
    fn gateways_that_come_and_go_are_forgotten_but_never_counted_twice() {
        let mut demand = demand();
        for i in 0..3000 {
            let epoch = BEGAN_MS + i;
            demand.observe(&line(&format!("g{i}"), epoch, 1, arrived(1)), at(i * 10));
        }
        assert_eq!(demand.gateways.len(), MOST_GATEWAYS);
        assert_eq!(demand.load(at(30_000)).unwrap().arrived, 3000);
        demand.observe(&line("g0", BEGAN_MS, 2, arrived(1)), at(30_001));
        assert_eq!(demand.load(at(30_001)).unwrap().arrived, 3000);
    }

    proptest! {
        /// Lines that are lost, repeated or late: the sum is what the newest line of each life says.
        #[test]
        fn any_order_of_lines_counts_every_request_once(
            picks in prop::collection::vec((0usize..3, 0u64..3, 0u64..20, 0u64..400), 1..60),
        ) {
            let mut demand = demand();
            let mut newest = BTreeMap::<(usize, u64), u64>::new();
            let mut last = BTreeMap::<usize, (u64, u64)>::new();
            let mut ms = 0;
            for (gateway, life, sequence, later) in picks {
                ms += later;
                let news = last.get(&gateway).is_none_or(|seen| *seen < (life, sequence));
                let report = line(&format!("g{gateway}"), BEGAN_MS + life, sequence, arrived(10 * sequence));
                prop_assert_eq!(demand.observe(&report, at(ms)), news);
                if news {
                    last.insert(gateway, (life, sequence));
                    newest.insert((gateway, life), 10 * sequence);
                }
                prop_assert_eq!(demand.history.total.arrived, newest.values().sum::<u64>());
            }
        }
    }
}
