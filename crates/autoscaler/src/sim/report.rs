//! What a simulation found, for people and for machines.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Scenario, SimError, plot};

/// How the policies did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// Its seed.
    pub seed: u64,
    /// How long it was, in seconds.
    pub duration_s: f64,
    /// Requests that came.
    pub requests: u64,
    /// Time to first token that users accept, in seconds.
    pub ttft_limit_s: f64,
    /// One for each policy.
    pub outcomes: Vec<Outcome>,
}

/// How one policy did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name.
    pub policy: String,
    /// What it cost: replicas times seconds, from their creation to their end.
    pub replica_seconds: f64,
    /// Requests that came.
    pub arrived: u64,
    /// Requests of those that were answered.
    pub answered: u64,
    /// Requests of those that were refused since the queue was full.
    pub refused: u64,
    /// Requests of those that were held until their deadline.
    pub timed_out: u64,
    /// Requests of those that were still there at the end.
    pub open: u64,
    /// Requests whose first token came too late or never.
    pub ttft_misses: u64,
    /// Time to first token, in seconds.
    pub ttft_s: Percentiles,
    /// Most requests that were held at a time.
    pub largest_queue: u64,
    /// Most replicas at a time, those that were ending included.
    pub most_replicas: u32,
    /// How often the number went up.
    pub ups: u32,
    /// How often it went down.
    pub downs: u32,
    /// How it went.
    pub timeline: Timeline,
}

impl Outcome {
    /// Requests that got no answer and will get none.
    pub fn lost(&self) -> u64 {
        self.refused + self.timed_out
    }
}

/// A distribution in three numbers; zeros where there were no values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// One in twenty is larger.
    pub p95: f64,
    /// One in a hundred is larger.
    pub p99: f64,
}

impl Percentiles {
    /// Of ascending values, by nearest rank.
    pub(crate) fn of(sorted: &[f64]) -> Percentiles {
        let at = |q: f64| {
            let rank = (q * sorted.len() as f64).ceil() as usize;
            rounded(sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0))
        };
        Percentiles { p50: at(0.5), p95: at(0.95), p99: at(0.99) }
    }
}

/// Means over equal spans of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Length of a span, in seconds.
    pub span_s: f64,
    /// Replicas.
    pub replicas: Vec<f64>,
    /// Requests that were held.
    pub queue: Vec<f64>,
    /// Requests that came in the span and whose first token came too late or never.
    pub misses: Vec<u64>,
}

impl Timeline {
    pub(crate) fn new(duration: f64, points: usize) -> Timeline {
        Timeline {
            span_s: duration / points as f64,
            replicas: vec![0.0; points],
            queue: vec![0.0; points],
            misses: vec![0; points],
        }
    }

    pub(crate) fn spend(&mut self, from: f64, length: f64, replicas: usize, held: usize) {
        let (mut from, end) = (from, from + length);
        while from < end {
            let span = self.span(from);
            let until = end.min((span + 1) as f64 * self.span_s);
            // The last span takes what rounding leaves over.
            let until = if until <= from { end } else { until };
            let share = (until - from) / self.span_s;
            self.replicas[span] += share * replicas as f64;
            self.queue[span] += share * held as f64;
            from = until;
        }
    }

    pub(crate) fn miss(&mut self, at: f64) {
        let span = self.span(at);
        self.misses[span] += 1;
    }

    pub(crate) fn rounded(mut self) -> Timeline {
        self.replicas.iter_mut().chain(&mut self.queue).for_each(|n| *n = rounded(*n));
        self
    }

    fn span(&self, at: f64) -> usize {
        ((at / self.span_s) as usize).min(self.misses.len() - 1)
    }
}

/// To thousandths: more would be noise that nobody reads.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

impl Report {
    pub(crate) fn new(scenario: &Scenario, requests: usize, outcomes: Vec<Outcome>) -> Report {
        Report {
            scenario: scenario.name.clone(),
            seed: scenario.seed,
            duration_s: scenario.duration.as_secs_f64(),
            requests: requests as u64,
            ttft_limit_s: scenario.ttft_limit.as_secs_f64(),
            outcomes,
        }
    }

    /// Everything, for machines.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers, texts and lists")
    }

    /// The numbers side by side, for people.
    pub fn table(&self) -> String {
        let hours = self.duration_s / 3600.0;
        let mut text = format!(
            "{}: {} requests in {hours:.1} h, seed {}; late is a first token after {} s or never\n\n",
            self.scenario, self.requests, self.seed, self.ttft_limit_s
        );
        let head = [
            "policy",
            "replica-h",
            "late",
            "late %",
            "ttft p50",
            "p95",
            "p99",
            "lost",
            "queue",
            "most",
            "up/down",
        ];
        let rows = self.outcomes.iter().map(|o| {
            let late = 100.0 * o.ttft_misses as f64 / (o.arrived.max(1)) as f64;
            [
                o.policy.clone(),
                format!("{:.2}", o.replica_seconds / 3600.0),
                o.ttft_misses.to_string(),
                format!("{late:.2}"),
                format!("{:.2} s", o.ttft_s.p50),
                format!("{:.2} s", o.ttft_s.p95),
                format!("{:.2} s", o.ttft_s.p99),
                o.lost().to_string(),
                o.largest_queue.to_string(),
                o.most_replicas.to_string(),
                format!("{}/{}", o.ups, o.downs),
            ]
        });
        let rows: Vec<[String; 11]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
        let widths: Vec<usize> =
            (0..head.len()).map(|c| rows.iter().map(|r| r[c].len()).max().unwrap_or(0)).collect();
        for row in &rows {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let (width, gap) = (*width, if column == 0 { "" } else { "  " });
                let written = match column {
                    0 => write!(text, "{cell:<width$}"),
                    _ => write!(text, "{gap}{cell:>width$}"),
                };
                written.expect("a String takes everything");
            }
            text.push('\n');
        }
        text
    }

    /// Replicas, held requests and misses over time, as one SVG.
    pub fn svg(&self) -> Result<String, SimError> {
        plot::draw(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(Percentiles::of(&values), Percentiles { p50: 50.0, p95: 95.0, p99: 99.0 });
        assert_eq!(Percentiles::of(&[7.0]), Percentiles { p50: 7.0, p95: 7.0, p99: 7.0 });
        assert_eq!(Percentiles::of(&[]), Percentiles::default());
    }

    #[test]
    fn time_is_spent_in_the_spans_it_lies_in() {
        let mut line = Timeline::new(100.0, 10);
        line.spend(5.0, 10.0, 2, 4);
        line.spend(99.0, 1.0, 1, 0);
        assert_eq!(line.replicas, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1]);
        assert_eq!(line.queue[..3], [2.0, 2.0, 0.0]);
        line.miss(100.0);
        assert_eq!(line.misses[9], 1);
    }
}
