//! Decides how what was found is told: a table for people, JSON for whoever compares runs.

use std::error::Error;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::checks::{Bar, Found};
use crate::limits::Limits;

/// Where and with what it was measured.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) device: String,
    pub(crate) capability: (u32, u32),
    pub(crate) multiprocessors: usize,
    /// Bytes of its memory.
    pub(crate) memory: u64,
    /// The newest CUDA that the driver knows.
    pub(crate) cuda: String,
    /// The driver's own version, where the system tells it.
    pub(crate) driver: Option<String>,
    pub(crate) date: String,
    /// Of the sources that the program was made of.
    pub(crate) commit: String,
}

/// One model that was compared with the CPU backend.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    name: String,
    bar: Bar,
    /// What was found, or why nothing was.
    found: Result<Found, String>,
}

impl Check {
    pub(crate) fn of(name: &str, found: Found, bar: Bar) -> Check {
        Check { name: name.to_owned(), bar, found: Ok(found) }
    }

    pub(crate) fn failed(name: &str, bar: Bar, why: String) -> Check {
        Check { name: name.to_owned(), bar, found: Err(why) }
    }

    /// Whether all was as it should be; what is no number is not.
    pub(crate) fn passed(&self) -> bool {
        self.found.as_ref().is_ok_and(|found| {
            let (kl, largest) =
                (found.kl.is_finite() && found.kl < self.bar.kl, found.largest < self.bar.largest);
            kl && largest && found.again && found.replayed
        })
    }

    /// A line for people.
    pub(crate) fn line(&self) -> String {
        let verdict = if self.passed() { "ok    " } else { "FAILED" };
        match &self.found {
            Err(why) => format!("{verdict}  {}: {why}", self.name),
            Ok(Found { kl, largest, again, replayed }) => {
                let mut line = format!(
                    "{verdict}  {}: KL {kl:.1e} (below {:.0e}), largest difference {:.2}% (below {:.0}%)",
                    self.name,
                    self.bar.kl,
                    100.0 * largest,
                    100.0 * self.bar.largest
                );
                if !again {
                    line += ", other bits the second time";
                }
                if !replayed {
                    line += ", a recorded pass differs from a launched one";
                }
                line
            }
        }
    }

    fn json(&self) -> Value {
        let found = match &self.found {
            Ok(Found { kl, largest, again, replayed }) => {
                json!({"kl": kl, "largest": largest, "same_again": again, "same_replayed": replayed})
            }
            Err(why) => json!({ "error": why }),
        };
        let bar = json!({"kl": self.bar.kl, "largest": self.bar.largest});
        json!({"model": self.name, "passed": self.passed(), "bar": bar, "found": found})
    }
}

/// One measured row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) model: String,
    pub(crate) what: String,
    /// Milliseconds of each run.
    pub(crate) runs: Vec<f64>,
    /// Tokens that a run reads or writes.
    pub(crate) tokens: usize,
    /// Milliseconds that the measured limits allow, where they say something.
    pub(crate) least: Option<f64>,
}

impl Row {
    /// Milliseconds.
    pub(crate) fn median(&self) -> f64 {
        median(&self.runs)
    }

    /// Of the limit.
    pub(crate) fn share(&self) -> Option<f64> {
        Some(self.least? / self.median()).filter(|share| share.is_finite())
    }

    /// A line for people.
    pub(crate) fn line(&self) -> String {
        let median = self.median();
        let rate = 1000.0 * self.tokens as f64 / median;
        let share = self.share().map_or_else(|| "   -".to_owned(), |share| format!("{:3.0}%", 100.0 * share));
        format!(
            "{:<22} {:<28} {median:>11.3} ms {rate:>12.1} tok/s  {share} of the limit, {} runs",
            self.model,
            self.what,
            self.runs.len()
        )
    }

    fn json(&self) -> Value {
        let fold = |with: fn(f64, f64) -> f64| self.runs.iter().copied().reduce(with);
        json!({
            "model": self.model, "row": self.what, "median_ms": self.median(), "fastest_ms": fold(f64::min),
            "slowest_ms": fold(f64::max), "runs": self.runs.len(), "tokens": self.tokens, "least_ms": self.least,
            "share": self.share(),
        })
    }
}

/// All of a run.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) checks: Vec<Check>,
    pub(crate) limits: Option<Limits>,
    pub(crate) rows: Vec<Row>,
    /// What was not measured, and why.
    pub(crate) dropped: Vec<(String, String)>,
    /// What should have been measured and failed, and why.
    pub(crate) failed: Vec<(String, String)>,
    /// What PyTorch and Transformers reach, or why they were not asked.
    pub(crate) peers: Result<Vec<Value>, String>,
    pub(crate) seconds: f64,
}

impl Report {
    /// Whether nothing failed.
    pub(crate) fn passed(&self) -> bool {
        self.failed.is_empty() && self.checks.iter().all(Check::passed)
    }

    pub(crate) fn json(&self) -> Value {
        let Machine {
            device,
            capability: (major, minor),
            multiprocessors,
            memory,
            cuda,
            driver,
            date,
            commit,
        } = &self.machine;
        let named = |list: &[(String, String)]| -> Vec<Value> {
            list.iter().map(|(row, why)| json!({"row": row, "why": why})).collect()
        };
        json!({
            "device": device, "capability": format!("{major}.{minor}"), "multiprocessors": multiprocessors,
            "memory_bytes": memory, "cuda": cuda, "driver": driver, "date": date, "commit": commit,
            "passed": self.passed(), "seconds": self.seconds,
            "checks": self.checks.iter().map(Check::json).collect::<Vec<_>>(),
            "limits": self.limits.as_ref().map(Limits::json),
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "dropped": named(&self.dropped), "failed": named(&self.failed),
            "peers": match &self.peers { Ok(rows) => json!(rows), Err(why) => json!({"absent": why}) },
        })
    }
}

/// The middle of some numbers; of an even count the mean of both in the middle. No number of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len.is_multiple_of(2) => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
        len => sorted[len / 2],
    }
}

/// An error with what caused it, in one line.
pub(crate) fn because(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a text cannot fail.
        let _ = write!(line, ": {error}");
        source = error.source();
    }
    line
}
