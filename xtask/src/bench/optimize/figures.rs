//! What was measured, what became of the bars, and how a report says so. Pure functions.

use serde::Serialize;

use super::super::checkpoint::Circumstances;
use super::super::report::{self, short};
use super::super::rows::Bar;
use super::super::stats::{Probe, Summary, Verdict, exit_code, ratios};

/// One row of the table.
#[derive(Debug, Serialize)]
pub(in super::super) struct Row {
    pub(super) row: String,
    unit: &'static str,
    ours: Option<Summary>,
    peer: &'static str,
    theirs: Summary,
    /// Ours divided by theirs, round by round.
    ratio: Option<Summary>,
    #[serde(serialize_with = "report::as_text")]
    bar: Option<Bar>,
    verdict: Verdict,
    /// What the machine could do just before; `None` for figures that do not depend on it.
    probe: Option<Probe>,
}

impl Row {
    /// Figures that change from round to round.
    ///
    /// # Panics
    /// Without rounds.
    pub(super) fn measured(
        row: String,
        unit: &'static str,
        ours: &[f64],
        (peer, theirs): (&'static str, &[f64]),
        bar: Option<Bar>,
        probe: Probe,
    ) -> Row {
        let summary = |samples: &[f64]| Summary::of(samples).expect("there is at least one round");
        let ratio = summary(&ratios(ours, theirs));
        Row {
            row,
            unit,
            ours: Some(summary(ours)),
            peer,
            theirs: summary(theirs),
            ratio: Some(ratio),
            bar,
            // Judged anew when the best of all probes is known.
            verdict: Verdict::of(&ratio, bar, &probe, &probe),
            probe: Some(probe),
        }
    }

    /// Figures that change from round to round, of what no probe of ours says anything about.
    ///
    /// # Panics
    /// Without rounds.
    pub(in super::super) fn compared(
        row: String,
        unit: &'static str,
        ours: &[f64],
        (peer, theirs): (&'static str, &[f64]),
        bar: Option<Bar>,
    ) -> Row {
        let summary = |samples: &[f64]| Summary::of(samples).expect("there is at least one round");
        let ratio = summary(&ratios(ours, theirs));
        let verdict = Verdict::of_samples(&ratio, bar);
        let (ours, theirs) = (Some(summary(ours)), summary(theirs));
        Row { row, unit, ours, peer, theirs, ratio: Some(ratio), bar, verdict, probe: None }
    }

    /// What became of its bar.
    pub(in super::super) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Figures that every round would give again; `ours` is `None` where theirs is only told.
    pub(in super::super) fn fixed(
        row: String,
        unit: &'static str,
        ours: Option<f64>,
        (peer, theirs): (&'static str, f64),
        bar: Option<Bar>,
    ) -> Row {
        let one = |value: f64| Summary { median: value, q1: value, q3: value, samples: 1 };
        let ratio = ours.map(|ours| one(ours / theirs));
        let verdict = match (ratio, bar) {
            (Some(ratio), Some(bar)) if bar.holds(ratio.median) => Verdict::Held,
            (Some(_), Some(_)) => Verdict::Missed,
            _ => Verdict::NoBar,
        };
        Row { row, unit, ours: ours.map(one), peer, theirs: one(theirs), ratio, bar, verdict, probe: None }
    }

    fn judge(&mut self, best: &Probe) {
        if let (Some(ratio), Some(probe)) = (&self.ratio, &self.probe) {
            self.verdict = Verdict::of(ratio, self.bar, probe, best);
        }
    }

    /// As [`HEAD`] names them.
    pub(in super::super) fn cells(&self) -> [String; 7] {
        let figure =
            |summary: &Summary| format!("{} {}", short(summary.median), self.unit).trim_end().to_owned();
        let ratio = |summary: Summary| match summary.samples {
            1 => format!("{:.3}", summary.median),
            _ => format!("{:.2} [{:.2}, {:.2}]", summary.median, summary.q1, summary.q3),
        };
        [
            self.row.clone(),
            self.ours.as_ref().map_or_else(String::new, figure),
            self.peer.to_owned(),
            figure(&self.theirs),
            self.ratio.map_or_else(String::new, ratio),
            self.bar.map_or_else(String::new, |bar| bar.to_string()),
            self.verdict.name().to_owned(),
        ]
    }
}

pub(in super::super) const HEAD: [&str; 7] =
    ["row", "ours", "peer", "theirs", "ratio [quartiles]", "bar", "verdict"];

/// A whole run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    model: String,
    peer: &'static str,
    circumstances: Circumstances,
    pairs: usize,
    windows: usize,
    best_probe: Probe,
    rows: Vec<Row>,
}

impl Report {
    /// Judges `rows`, whose machine was at its best as `best_probe` says.
    pub(super) fn new(
        model: String,
        peer: &'static str,
        circumstances: Circumstances,
        (pairs, windows): (usize, usize),
        best_probe: Probe,
        mut rows: Vec<Row>,
    ) -> Report {
        rows.iter_mut().for_each(|row| row.judge(&best_probe));
        Report { model, peer, circumstances, pairs, windows, best_probe, rows }
    }

    pub(super) fn exit_code(&self) -> u8 {
        exit_code(&self.rows.iter().map(|row| row.verdict).collect::<Vec<_>>())
    }

    fn lines(&self) -> Vec<[String; 7]> {
        self.rows.iter().map(Row::cells).collect()
    }

    /// For a terminal.
    pub(super) fn table(&self) -> String {
        report::aligned(HEAD, &self.lines())
    }

    /// The generated part of the performance page.
    pub(super) fn markdown(&self) -> String {
        let Report { model, peer, circumstances, pairs, windows, best_probe, rows: _ } = self;
        format!(
            "{model}, {circumstances}, rounds: {pairs}, windows of 512 tokens: {windows}, against {peer}.\n\
             Machine: {machine}. Its best in this run: {best_probe}.\n\n{table}",
            machine = circumstances.machine,
            table = report::markdown_table(HEAD, &self.lines()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: Probe = Probe { int8_gmacs: 100.0, f32_gmacs: 50.0, bf16_gmacs: None, dram_gbs: 20.0 };
    const SPEED: Option<Bar> = Some(Bar::AtLeast(1.0));

    fn report(rows: Vec<Row>) -> Report {
        let circumstances =
            Circumstances { commit: "abc".into(), changes: String::new(), machine: "m".into(), threads: 2 };
        Report::new("M".into(), "p==1", circumstances, (7, 16), PROBE, rows)
    }

    fn speed(ours: f64, theirs: f64, probe: Probe) -> Row {
        let (ours, theirs) = ([ours; 7], [theirs; 7]);
        Row::measured("quantize/q8_0/F32".into(), "MB/s", &ours, ("llama.cpp", &theirs), SPEED, probe)
    }

    fn loss(ours: Option<f64>, theirs: f64) -> Row {
        Row::fixed("kl/q4_0".into(), "nats", ours, ("llama.cpp", theirs), Some(Bar::AtMost(1.1)))
    }

    #[test]
    fn a_row_tells_both_figures_their_ratio_and_what_became_of_its_bar() {
        let report = report(vec![speed(500.0, 1000.0, PROBE), loss(Some(0.02), 0.016), loss(None, 0.004)]);
        let expected = [
            ["quantize/q8_0/F32", "500 MB/s", "llama.cpp", "1000 MB/s", "0.50 [0.50, 0.50]", "≥ 1", "MISSED"],
            ["kl/q4_0", "2.00e-2 nats", "llama.cpp", "1.60e-2 nats", "1.250", "≤ 1.1", "MISSED"],
            ["kl/q4_0", "", "llama.cpp", "4.00e-3 nats", "", "≤ 1.1", ""],
        ];
        assert_eq!(report.lines(), expected.map(|line| line.map(str::to_owned)));
        assert_eq!(report.exit_code(), 1);
    }

    #[test]
    fn bars_that_hold_are_told_from_those_that_are_missed() {
        assert_eq!(report(vec![speed(1000.0, 1000.0, PROBE), loss(Some(0.0176), 0.016)]).exit_code(), 0);
        assert_eq!(report(vec![speed(999.0, 1000.0, PROBE)]).exit_code(), 1);
        assert_eq!(report(vec![loss(Some(0.0177), 0.016)]).exit_code(), 1);
        // A figure that is not a number holds nothing.
        assert_eq!(report(vec![loss(Some(f64::NAN), 0.016)]).exit_code(), 1);
    }

    #[test]
    fn a_machine_below_its_best_decides_nothing_about_speed() {
        let slow = Probe { dram_gbs: 17.0, ..PROBE };
        assert_eq!(report(vec![speed(2000.0, 1000.0, slow), loss(Some(0.01), 0.01)]).exit_code(), 3);
    }

    #[test]
    fn the_page_says_what_was_measured_where() {
        let page = report(vec![speed(1000.0, 1000.0, PROBE)]).markdown();
        assert!(
            page.starts_with(
                "M, commit abc, 2 threads, rounds: 7, windows of 512 tokens: 16, against p==1.\n"
            )
        );
        assert!(page.contains("Machine: m. Its best in this run: int8 100 GMAC/s"), "{page}");
        assert!(page.contains("| quantize/q8_0/F32 | 1000 MB/s | llama.cpp | 1000 MB/s |"), "{page}");
    }
}
