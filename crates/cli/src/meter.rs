//! Shows how far long work is: a bar on a terminal, a plain line every few seconds in a log.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::job;

const LINE_EVERY: Duration = Duration::from_secs(10);
/// Who asks how far it is does so no more often.
const SAY_EVERY: Duration = Duration::from_millis(500);

/// Progress of one piece of work, on standard error.
pub(crate) struct Meter {
    what: &'static str,
    bar: Option<ProgressBar>,
    next_line: Instant,
    /// When to say it next to whoever may ask; never where nobody can.
    next_say: Option<Instant>,
}

impl Meter {
    /// `what` is done, as a word ("quantising").
    pub(crate) fn new(what: &'static str) -> Meter {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = "{prefix} {bar:32} {percent:>3} %  {eta} left  {wide_msg}";
            let style = ProgressStyle::with_template(template).expect("the template is well-formed");
            ProgressBar::new(1).with_style(style).with_prefix(what)
        });
        Meter {
            what,
            bar,
            next_line: Instant::now() + LINE_EVERY,
            next_say: job::is_open().then(Instant::now),
        }
    }

    /// `done` of `total` are done; `message` says what is at hand, and is made only when it is shown.
    pub(crate) fn set(&mut self, done: u64, total: u64, message: impl Fn() -> String) {
        if self.next_say.is_some_and(|at| Instant::now() >= at) {
            self.next_say = Some(Instant::now() + SAY_EVERY);
            job::say(self.what, done, total, message());
        }
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(message());
            }
            None if Instant::now() >= self.next_line => {
                self.next_line = Instant::now() + LINE_EVERY;
                eprintln!("{}: {:.0} %, {}", self.what, 100.0 * done as f64 / total.max(1) as f64, message());
            }
            None => {}
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
