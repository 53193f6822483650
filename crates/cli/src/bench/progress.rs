//! Shows how far a run is: a bar on a terminal, a plain line every few seconds in a log.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::load::Sample;
use super::workload::Workload;

const LINE_EVERY: Duration = Duration::from_secs(10);

/// Counts ended requests and says so on standard error.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    duration: Option<Duration>,
    done: usize,
    failed: usize,
    next_line: Duration,
}

impl Progress {
    pub(crate) fn new(workload: &Workload) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = "{bar:32} {percent:>3} %  {elapsed}  {msg}";
            let style = ProgressStyle::with_template(template).expect("the template is well-formed");
            ProgressBar::new(1000).with_style(style)
        });
        // With both limits the number of requests is the one that can be counted exactly.
        let duration = if workload.requests.is_some() { None } else { workload.duration };
        if let Some(bar) = &bar
            && let Some(requests) = workload.requests
        {
            bar.set_length(requests as u64);
        }
        Progress { bar, duration, done: 0, failed: 0, next_line: LINE_EVERY }
    }

    pub(crate) fn count(&mut self, sample: &Sample) {
        self.done += 1;
        self.failed += usize::from(sample.error.is_some());
    }

    pub(crate) fn show(&mut self, elapsed: Duration) {
        let message = format!("{} answered, {} failed", self.done - self.failed, self.failed);
        match (&self.bar, self.duration) {
            (Some(bar), None) => bar.set_position(self.done as u64),
            (Some(bar), Some(duration)) => {
                bar.set_position((1000.0 * elapsed.as_secs_f64() / duration.as_secs_f64()) as u64);
            }
            (None, _) => {
                if elapsed >= self.next_line {
                    self.next_line = elapsed + LINE_EVERY;
                    eprintln!("{:.0} s: {message}", elapsed.as_secs_f64());
                }
            }
        }
        if let Some(bar) = &self.bar {
            bar.set_message(message);
        }
    }

    pub(crate) fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
