//! Registers a table and records by table entry.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use prometheus::{CounterVec, Encoder, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry, TextEncoder};

use super::table::{Kind, Metric};

enum Vector {
    Counter(CounterVec),
    Gauge(GaugeVec),
    Histogram(HistogramVec),
}

/// The metrics of one role. Each instance is its own world, so two servers in one process do not mix.
pub struct Metrics {
    registry: Registry,
    by_name: HashMap<&'static str, Vector>,
    /// Held from reading a counter to raising it.
    raising: Mutex<()>,
    /// Held from forgetting a gauge to telling it.
    telling: Mutex<()>,
}

const WRONG_KIND: &str = "a metric is recorded as the kind that its table entry names";
const WRONG_LABELS: &str = "a metric is recorded with the labels that its table entry names";
const STATIC_TABLE: &str = "names, labels and buckets of the static table are valid, which a test shows";

impl Metrics {
    /// Registers every metric of a table.
    pub fn new(table: &[&'static Metric]) -> Metrics {
        let registry = Registry::new();
        let mut by_name = HashMap::new();
        for metric in table {
            let vector = match metric.kind {
                Kind::Counter => {
                    let v = CounterVec::new(Opts::new(metric.name, metric.help), metric.labels)
                        .expect(STATIC_TABLE);
                    registry.register(Box::new(v.clone())).expect(STATIC_TABLE);
                    Vector::Counter(v)
                }
                Kind::Gauge => {
                    let v = GaugeVec::new(Opts::new(metric.name, metric.help), metric.labels)
                        .expect(STATIC_TABLE);
                    registry.register(Box::new(v.clone())).expect(STATIC_TABLE);
                    Vector::Gauge(v)
                }
                Kind::Histogram(buckets) => {
                    let opts = HistogramOpts::new(metric.name, metric.help).buckets(buckets.to_vec());
                    let v = HistogramVec::new(opts, metric.labels).expect(STATIC_TABLE);
                    registry.register(Box::new(v.clone())).expect(STATIC_TABLE);
                    Vector::Histogram(v)
                }
            };
            by_name.insert(metric.name, vector);
        }
        Metrics { registry, by_name, raising: Mutex::new(()), telling: Mutex::new(()) }
    }

    /// Adds to a counter.
    ///
    /// # Panics
    /// As all recording functions: when the metric is not of the table or is of another kind, which are
    /// mistakes in the calling code.
    pub fn add(&self, metric: &'static Metric, labels: &[&str], amount: f64) {
        self.counter(metric, labels).inc_by(amount);
    }

    /// Brings a counter up to a total that is counted elsewhere. A lower total changes nothing.
    pub fn raise_to(&self, metric: &'static Metric, labels: &[&str], total: f64) {
        let counter = self.counter(metric, labels);
        let _alone = self.raising.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = total - counter.get();
        if missing > 0.0 {
            counter.inc_by(missing);
        }
    }

    /// Sets a gauge.
    pub fn set(&self, metric: &'static Metric, labels: &[&str], value: f64) {
        let Some(Vector::Gauge(v)) = self.by_name.get(metric.name) else {
            panic!("{WRONG_KIND}: {}", metric.name)
        };
        v.get_metric_with_label_values(labels).expect(WRONG_LABELS).set(value);
    }

    /// Records one observation of a histogram.
    pub fn observe(&self, metric: &'static Metric, labels: &[&str], value: f64) {
        let Some(Vector::Histogram(v)) = self.by_name.get(metric.name) else {
            panic!("{WRONG_KIND}: {}", metric.name)
        };
        v.get_metric_with_label_values(labels).expect(WRONG_LABELS).observe(value);
    }

    fn counter(&self, metric: &'static Metric, labels: &[&str]) -> prometheus::Counter {
        let Some(Vector::Counter(v)) = self.by_name.get(metric.name) else {
            panic!("{WRONG_KIND}: {}", metric.name)
        };
        v.get_metric_with_label_values(labels).expect(WRONG_LABELS)
    }

    /// All metrics in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// As [`Metrics::encode`], when `count` has set these gauges anew: what they told of may be gone. One caller at a time, so that nobody
    /// reads what is forgotten and not yet counted.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn encode_anew(
        &self,
        gauges: &[&'static Metric],
        count: impl FnOnce(),
    ) -> Result<String, prometheus::Error> {
        let _alone = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        for metric in gauges {
            let Some(Vector::Gauge(v)) = self.by_name.get(metric.name) else {
                panic!("{WRONG_KIND}: {}", metric.name)
            };
            v.reset();
        }
        count();
        self.encode()
    }

    /// `Content-Type` of [`Metrics::encode`].
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::server;
    use super::*;

    #[test]
    fn the_whole_table_registers_and_records() {
        let metrics = Metrics::new(server::ALL);
        for metric in server::ALL {
            let labels = vec!["x"; metric.labels.len()];
            match metric.kind {
                Kind::Counter => metrics.add(metric, &labels, 1.0),
                Kind::Gauge => metrics.set(metric, &labels, 2.0),
                Kind::Histogram(_) => metrics.observe(metric, &labels, 0.5),
            }
        }
        let text = metrics.encode().unwrap();
        for metric in server::ALL {
            assert!(text.contains(&format!("# HELP {} ", metric.name)), "{}", metric.name);
        }
        assert!(text.contains("vllm:num_requests_running{model_name=\"x\"} 2"), "{text}");
    }

    #[test]
    fn what_is_counted_anew_tells_nothing_of_what_is_gone() {
        let metrics = Metrics::new(server::ALL);
        metrics.set(&server::REQUESTS_RUNNING, &["gone"], 1.0);
        metrics.set(&server::REQUESTS_WAITING, &["stays"], 1.0);
        let count = || metrics.set(&server::REQUESTS_RUNNING, &["new"], 1.0);
        let text = metrics.encode_anew(&[&server::REQUESTS_RUNNING], count).unwrap();
        assert!(!text.contains("gone") && text.contains("\"new\"") && text.contains("\"stays\""), "{text}");
    }

    #[test]
    fn nobody_reads_what_is_not_yet_counted_anew() {
        let metrics = Metrics::new(server::ALL);
        let read = || {
            let count = || metrics.set(&server::REQUESTS_RUNNING, &["m"], 1.0);
            metrics.encode_anew(&[&server::REQUESTS_RUNNING], count).unwrap()
        };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        assert!(read().contains("vllm:num_requests_running{model_name=\"m\"} 1"));
                    }
                });
            }
        });
    }

    #[test]
    fn threads_that_raise_a_counter_together_do_not_add_twice() {
        let metrics = Metrics::new(server::ALL);
        // One counter per round: a later raise would hide that an earlier one went too far.
        let names: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
        for name in &names {
            metrics.raise_to(&server::PREEMPTIONS, &[name], 0.0);
        }
        let arrived = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for (round, name) in names.iter().enumerate() {
                        arrived.fetch_add(1, Ordering::SeqCst);
                        // A barrier would wake one thread after the other.
                        while arrived.load(Ordering::SeqCst) < 2 * (round + 1) {
                            std::hint::spin_loop();
                        }
                        metrics.raise_to(&server::PREEMPTIONS, &[name], 1.0);
                    }
                });
            }
        });
        for name in &names {
            assert_eq!(metrics.counter(&server::PREEMPTIONS, &[name]).get(), 1.0, "{name}");
        }
    }

    #[test]
    fn counters_follow_totals_and_never_fall() {
        let metrics = Metrics::new(server::ALL);
        for total in [3.0, 5.0, 4.0] {
            metrics.raise_to(&server::PREEMPTIONS, &["m"], total);
        }
        assert!(metrics.encode().unwrap().contains("vllm:num_preemptions_total{model_name=\"m\"} 5"));
    }
}
