//! Shows how far training is: a bar on a terminal, a plain line every few seconds in a log.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use wharf_optimize::distill::{Event, StepLine};

use crate::job;

const LINE_EVERY: Duration = Duration::from_secs(10);

/// Hears of a run's events and says so on standard error.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    steps: usize,
    silent: bool,
    last_line: Option<Instant>,
}

impl Progress {
    /// `silent` for processes that the first one speaks for.
    pub(super) fn new(steps: usize, silent: bool) -> Progress {
        let bar = (std::io::stderr().is_terminal() && !silent).then(|| {
            let template = "{bar:32} {pos}/{len}  {elapsed}, {eta} left  {msg}";
            let style = ProgressStyle::with_template(template).expect("the template is well-formed");
            ProgressBar::new(steps as u64).with_style(style)
        });
        Progress { bar, steps, silent, last_line: None }
    }

    pub(super) fn show(&mut self, event: &Event) {
        if self.silent {
            return;
        }
        match event {
            Event::Packing { tokens } => {
                let message = format!("reading text: {tokens} tokens");
                match &self.bar {
                    Some(bar) => bar.set_message(message),
                    None => self.line_now_and_then(&message),
                }
            }
            Event::Layers { kept } => {
                let kept: Vec<String> = kept.iter().map(usize::to_string).collect();
                self.say(&format!("starting from the teacher's layers {}", kept.join(",")));
            }
            Event::Start { step, windows, parameters } => {
                self.say(&format!(
                    "training {:.1} million parameters on {windows} windows from step {step}",
                    *parameters as f64 / 1e6
                ));
                if let Some(bar) = &self.bar {
                    bar.set_position(*step as u64);
                    bar.reset_eta();
                }
            }
            Event::Step(line) => self.step(line),
            Event::Validation(found) => self.say(&format!(
                "step {}: validation perplexity {:.3}, KL to the teacher {:.4}, same likeliest token {:.1}%",
                found.step,
                found.perplexity,
                found.kl_to_teacher,
                found.top1_agreement * 100.0
            )),
            Event::Checkpoint { step } => {
                if self.bar.is_none() {
                    self.say(&format!("step {step}: checkpoint written"));
                }
            }
            Event::Export => self.say("writing the student"),
        }
    }

    fn step(&mut self, line: &StepLine) {
        let message = format!(
            "loss {:.4}, kl {:.4}, ce {:.4}, {:.0} tokens/s",
            line.loss, line.kl, line.ce, line.tokens_per_second
        );
        if job::is_open() {
            job::say("distilling", line.step as u64, self.steps as u64, message.clone());
        }
        match &self.bar {
            Some(bar) => {
                bar.set_position(line.step as u64);
                bar.set_message(message);
            }
            None => self.line_now_and_then(&format!("step {}/{}: {message}", line.step, self.steps)),
        }
    }

    fn line_now_and_then(&mut self, message: &str) {
        if self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
            self.last_line = Some(Instant::now());
            eprintln!("{message}");
        }
    }

    fn say(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.println(message),
            None => eprintln!("{message}"),
        }
    }

    pub(super) fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
