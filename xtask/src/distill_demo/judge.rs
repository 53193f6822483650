//! Decides whether the teacher has helped, from the reports of the runs.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// What `wharf distill` reports of a run; the rest of its report is kept out of the figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) tokens: u64,
    pub(super) seconds: f64,
    tokens_per_second: f64,
    flops_per_second: f64,
    before: Validation,
    after: Validation,
}

/// A student on text that it was not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Validation {
    perplexity: f64,
    kl_to_teacher: f64,
    top1_agreement: f64,
    teacher_perplexity: f64,
}

/// What the runs came to.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) without: Report,
    /// Killed in the middle and resumed.
    pub(super) with: Report,
    pub(super) uninterrupted: Report,
    /// Single-precision operations a second that this machine could do, 10⁹.
    pub(super) peak_gflops: f64,
}

/// A teacher that helps less than this is not worth its time.
const CLEARLY: f64 = 0.95;

impl Figures {
    /// What should hold, and whether it does.
    pub(super) fn bars(&self) -> [(&'static str, bool); 5] {
        let Figures { without, with, uninterrupted, peak_gflops: _ } = self;
        let (without, before, with) = (without.after, with.before, with.after);
        [
            (
                "perplexity clearly below the run without the teacher",
                with.perplexity < CLEARLY * without.perplexity,
            ),
            (
                "KL clearly below the run without the teacher",
                with.kl_to_teacher < CLEARLY * without.kl_to_teacher,
            ),
            ("KL clearly below the pruned student", with.kl_to_teacher < CLEARLY * before.kl_to_teacher),
            ("perplexity clearly below the pruned student", with.perplexity < CLEARLY * before.perplexity),
            ("killed and resumed ends as uninterrupted, to the bit", with == uninterrupted.after),
        ]
    }

    /// The figures for people.
    pub(super) fn text(&self) -> String {
        let Figures { without, with, uninterrupted, peak_gflops } = self;
        let mut out = format!(
            "\n{:<28}{:>12}{:>18}{:>22}\n",
            "student", "perplexity", "KL to the teacher", "same likeliest token"
        );
        for (name, found) in [
            ("before training", with.before),
            ("without the teacher", without.after),
            ("with the teacher", with.after),
            ("with it, uninterrupted", uninterrupted.after),
        ] {
            let Validation { perplexity, kl_to_teacher, top1_agreement, .. } = found;
            let top1 = 100.0 * top1_agreement;
            writeln!(out, "{name:<28}{perplexity:>12.2}{kl_to_teacher:>18.4}{top1:>21.1}%")
                .expect("a string takes everything");
        }
        writeln!(out, "{:<28}{:>12.2}\n", "teacher", with.after.teacher_perplexity)
            .expect("a string takes everything");
        for (name, run) in [("without the teacher", without), ("with the teacher", uninterrupted)] {
            let gflops = run.flops_per_second / 1e9;
            writeln!(
                out,
                "{name:<28}{:>5.0} tokens/s, {gflops:.0} GFLOP/s: {:.0}% of the {peak_gflops:.0} that multiply-adds alone \
                 reach here; {:.0} s",
                run.tokens_per_second,
                100.0 * gflops / peak_gflops,
                run.seconds
            )
            .expect("a string takes everything");
        }
        for (bar, met) in self.bars() {
            writeln!(out, "{} {bar}", if met { "met   " } else { "missed" })
                .expect("a string takes everything");
        }
        out
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn found(perplexity: f64, kl_to_teacher: f64) -> Validation {
        Validation { perplexity, kl_to_teacher, top1_agreement: 0.5, teacher_perplexity: 30.0 }
    }

    fn report(after: Validation) -> Report {
        Report {
            tokens: 1000,
            seconds: 10.0,
            tokens_per_second: 100.0,
            flops_per_second: 5e10,
            before: found(1e6, 10.0),
            after,
        }
    }

    fn figures(without: Validation, with: Validation) -> Figures {
        Figures {
            without: report(without),
            with: report(with),
            uninterrupted: report(with),
            peak_gflops: 200.0,
        }
    }

    #[test]
    fn a_teacher_that_hardly_helps_misses_the_bars() {
        let met = |figures: &Figures| figures.bars().map(|(_, met)| met);
        assert_eq!(met(&figures(found(100.0, 2.0), found(80.0, 1.0))), [true; 5]);
        assert_eq!(met(&figures(found(100.0, 2.0), found(99.0, 1.0)))[..2], [false, true]);
        let mut other = figures(found(100.0, 2.0), found(80.0, 1.0));
        other.uninterrupted.after.perplexity += 1e-9;
        assert!(!met(&other)[4]);
    }

    #[test]
    fn the_text_has_every_student_and_the_share_of_the_peak() {
        let text = figures(found(100.0, 2.0), found(80.0, 1.0)).text();
        for part in ["before training", "100.00", "80.00", "25% of the 200", "met "] {
            assert!(text.contains(part), "{text}");
        }
    }
}
