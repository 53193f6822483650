//! What is asked of services, summed over the gateways that live.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::Instant;
use wharf_api::demand::DemandReport;
use wharf_autoscaler::{Demand, Load, Now, Windows};
use wharf_cluster::DemandStreams;

use crate::history::WINDOW;

/// Services that are remembered.
const MOST: usize = 10_000;

/// The demand on every service that a gateway knows.
pub(crate) struct Services {
    began: (Timestamp, Instant),
    known: Mutex<HashMap<String, Demand>>,
    news: watch::Sender<()>,
}

impl Default for Services {
    fn default() -> Services {
        let began = (Timestamp::now(), Instant::now());
        Services { began, known: Mutex::default(), news: watch::channel(()).0 }
    }
}

impl Services {
    /// Takes in what gateways say, for as long as it is polled.
    pub(crate) async fn follow(&self, streams: &DemandStreams) {
        let mut lines = streams.lines();
        for report in streams.reports().into_values() {
            self.hear(&report);
        }
        loop {
            match lines.recv().await {
                Ok(report) => self.hear(&report),
                // Each line says everything: those that were missed are no loss.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Takes in a line.
    pub(crate) fn hear(&self, report: &Arc<DemandReport>) {
        let now = self.now();
        let mut known = self.known();
        for service in report.services.keys() {
            if !known.contains_key(service) && known.len() < MOST {
                let windows = Windows { stable: WINDOW, panic: WINDOW / 5 };
                known.insert(service.clone(), Demand::new(service, windows, now));
            }
        }
        // Those that it does not name any more too.
        for demand in known.values_mut() {
            demand.observe(report, now);
        }
        drop(known);
        self.news.send_replace(());
    }

    /// The demand on `namespace/name`; none if no gateway knows it.
    pub(crate) fn load(&self, service: &str) -> Option<Load> {
        let now = self.now();
        self.known().get_mut(service)?.load(now)
    }

    /// Names in a namespace.
    pub(crate) fn names(&self, namespace: &str) -> Vec<String> {
        let known = self.known();
        let names = known.keys().filter_map(|service| service.split_once('/'));
        let mut names: Vec<String> =
            names.filter(|(of, _)| *of == namespace).map(|(_, name)| name.to_owned()).collect();
        names.sort();
        names
    }

    /// Tells that somebody has said something.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    fn now(&self) -> Now {
        Now::after(self.began.0, self.began.1.elapsed())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Demand>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use wharf_api::demand::ServiceDemand;

    use super::*;

    fn report(gateway: &str, sequence: u64, in_flight: u64) -> Arc<DemandReport> {
        let demand = ServiceDemand { in_flight, ..ServiceDemand::default() };
        Arc::new(DemandReport {
            gateway: gateway.to_owned(),
            epoch: 1,
            sequence,
            lease_ms: 60_000,
            services: [("demo/assistant".to_owned(), demand)].into(),
        })
    }

    #[test]
    fn what_gateways_say_is_summed() {
        let services = Services::default();
        services.hear(&report("a", 1, 3));
        services.hear(&report("b", 1, 4));
        assert_eq!(services.load("demo/assistant").unwrap().latest.in_flight, 7.0);
        services.hear(&report("a", 2, 0));
        assert_eq!(services.load("demo/assistant").unwrap().latest.in_flight, 4.0);
        assert_eq!(services.load("demo/other"), None);
        assert_eq!((services.names("demo"), services.names("x")), (vec!["assistant".to_owned()], vec![]));
    }
}
