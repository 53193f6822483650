//! What a run says: verdicts of rows, as a table on the terminal, in Markdown, and as JSON. Pure functions.

use std::collections::BTreeMap;

use serde::Serialize;

use super::checkpoint::{Circumstances, Measured};
use super::rows::{self, Bar, Measure, Peer, Row};
use super::stats::{Bound, Probe, Summary, Verdict, exit_code, ratios};

/// The name of our samples.
pub(crate) const OURS: &str = "ours";

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) model: String,
    pub(crate) peers: Vec<String>,
    pub(crate) circumstances: Circumstances,
    pub(crate) pairs: usize,
    /// The best of every probe of the run.
    pub(crate) best_probe: Probe,
    pub(crate) rows: Vec<Finished>,
}

/// A row with its verdicts.
#[derive(Debug, Serialize)]
pub(crate) struct Finished {
    pub(crate) row: String,
    unit: &'static str,
    more_is_better: bool,
    engines: BTreeMap<String, Figures>,
    pub(crate) comparisons: Vec<Comparison>,
    /// Tokens per second at which the machine is used up, and what is used up.
    limit: Option<(f64, Bound)>,
    probe: Probe,
    /// The smallest share of the run's best probe.
    probe_share: f64,
}

/// One engine's figures in a row.
#[derive(Debug, Serialize)]
struct Figures {
    summary: Summary,
    setting: Option<String>,
    /// Of the limit.
    share: Option<f64>,
    samples: Vec<f64>,
}

/// What is compared, and what became of its bar.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) measure: Measure,
    pub(crate) summary: Summary,
    #[serde(serialize_with = "as_text")]
    pub(crate) bar: Option<Bar>,
    pub(crate) verdict: Verdict,
}

/// A bar as people read it.
pub(crate) fn as_text<S: serde::Serializer>(bar: &Option<Bar>, serializer: S) -> Result<S::Ok, S::Error> {
    bar.map(|bar| bar.to_string()).serialize(serializer)
}

impl Finished {
    /// `None` when there are no samples of ours.
    pub(crate) fn of(row: &Row, measured: &Measured, best: &Probe) -> Option<Finished> {
        let Measured { row: id, samples, settings, probe, work } = measured;
        let peak = if row.file == "F16" { best.f32_gmacs } else { best.int8_gmacs };
        let limit = work.map(|work| work.limit(peak, best.dram_gbs));
        let ours = samples.get(OURS)?;
        let compare = |measure, values: &[f64]| {
            let (summary, bar) = (Summary::of(values)?, rows::bar(id, measure));
            Some(Comparison { measure, summary, bar, verdict: Verdict::of(&summary, bar, probe, best) })
        };
        let mut comparisons: Vec<Comparison> = row
            .peers
            .iter()
            .filter_map(|&peer| compare(Measure::RatioTo(peer), &ratios(ours, samples.get(peer.name())?)))
            .collect();
        if rows::bar(id, Measure::Ours).is_some() {
            comparisons.extend(compare(Measure::Ours, ours));
        }
        let engines = samples.iter().filter_map(|(name, samples)| {
            let summary = Summary::of(samples)?;
            let share = limit.map(|(rate, _)| summary.median / rate);
            let setting = settings.get(name).cloned();
            Some((name.clone(), Figures { summary, setting, share, samples: samples.clone() }))
        });
        Some(Finished {
            row: id.clone(),
            unit: row.kind.unit(),
            more_is_better: row.kind.more_is_better(),
            engines: engines.collect(),
            comparisons,
            limit,
            probe: *probe,
            probe_share: probe.share_of(best),
        })
    }

    /// Whether measuring again could tell more.
    pub(crate) fn inconclusive(&self) -> bool {
        self.comparisons.iter().any(|comparison| comparison.verdict == Verdict::Inconclusive)
    }

    fn figure(&self, engine: &str) -> String {
        self.engines
            .get(engine)
            .map_or_else(String::new, |f| format!("{} {}", short(f.summary.median), self.unit))
    }

    fn share(&self, engine: &str) -> String {
        let share = self.engines.get(engine).and_then(|figures| figures.share);
        share.map_or_else(String::new, |share| format!("{:.0}%", share * 100.0))
    }

    /// Cells of each comparison: row, ours, whom with, theirs, ratio, bar, verdict, our share of the limit and theirs.
    fn cells(&self) -> Vec<[String; 9]> {
        let bound = match self.limit {
            Some((_, Bound::Arithmetic)) => " of arithmetic",
            Some((_, Bound::Memory)) => " of memory",
            None => "",
        };
        let line = |comparison: &Comparison| {
            let Comparison { measure, summary, bar, verdict } = comparison;
            let peer = match measure {
                Measure::RatioTo(peer) => peer.name(),
                Measure::Ours => "itself",
            };
            [
                self.row.clone(),
                self.figure(OURS),
                peer.into(),
                self.figure(peer),
                format!("{:.2} [{:.2}, {:.2}]", summary.median, summary.q1, summary.q3),
                bar.map_or_else(String::new, |bar| bar.to_string()),
                verdict.name().into(),
                self.share(OURS) + bound,
                self.share(peer),
            ]
        };
        self.comparisons.iter().map(line).collect()
    }

    /// How many times better than each peer we are: more tokens, less memory, less time.
    pub(crate) fn advantages(&self) -> Vec<(Peer, Summary, Option<f64>)> {
        let turned = |value: f64| if self.more_is_better { value } else { 1.0 / value };
        let one = |comparison: &Comparison| match comparison.measure {
            Measure::Ours => None,
            Measure::RatioTo(peer) => {
                let Summary { median, q1, q3, samples } = comparison.summary;
                let (a, b) = (turned(q1), turned(q3));
                let bar = comparison.bar.map(|bar| match bar {
                    Bar::AtLeast(limit) | Bar::AtMost(limit) => turned(limit),
                });
                Some((peer, Summary { median: turned(median), q1: a.min(b), q3: a.max(b), samples }, bar))
            }
        };
        self.comparisons.iter().filter_map(one).collect()
    }
}

/// Three digits that count.
pub(crate) fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{v:.2}"),
        v => format!("{v:.2e}"),
    }
}

const HEAD: [&str; 9] =
    ["row", "ours", "peer", "theirs", "ratio [quartiles]", "bar", "verdict", "share", "theirs"];

impl Report {
    pub(crate) fn exit_code(&self) -> u8 {
        let comparisons = self.rows.iter().flat_map(|row| &row.comparisons);
        exit_code(&comparisons.map(|comparison| comparison.verdict).collect::<Vec<_>>())
    }

    fn lines(&self) -> Vec<[String; 9]> {
        self.rows.iter().flat_map(Finished::cells).collect()
    }

    /// For a terminal.
    pub(crate) fn table(&self) -> String {
        aligned(HEAD, &self.lines())
    }

    /// The generated part of the performance page.
    pub(crate) fn markdown(&self, plot: &str) -> String {
        let Report { model, peers, circumstances, pairs, best_probe, rows: _ } = self;
        format!(
            "{model}, {circumstances}, pairs a row: {pairs}, against {peers}.\n\
             Machine: {machine}. Its best in this run: {best_probe}.\n\n\
             ![How many times better than each peer]({plot})\n\n{table}",
            peers = peers.join(" and "),
            machine = circumstances.machine,
            table = markdown_table(HEAD, &self.lines()),
        )
    }
}

/// Columns of a table for a terminal.
pub(crate) fn aligned<const N: usize>(head: [&str; N], lines: &[[String; N]]) -> String {
    let head = head.map(str::to_owned);
    let lines: Vec<&[String; N]> = std::iter::once(&head).chain(lines).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line.iter().zip(widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// The same in Markdown.
pub(crate) fn markdown_table<const N: usize>(head: [&str; N], lines: &[[String; N]]) -> String {
    let row = |cells: &[String; N]| format!("| {} |\n", cells.join(" | "));
    let mut text = row(&head.map(str::to_owned)) + &row(&head.map(|_| "---".to_owned()));
    text.extend(lines.iter().map(row));
    text
}

/// `page` with `generated` between the markers of `cargo xtask bench COMMAND`; `None` when it lacks them.
pub(crate) fn put_between_markers(page: &str, command: &str, generated: &str) -> Option<String> {
    let marker = |end: &str| format!("<!-- cargo xtask bench {command}: {end} -->");
    let (begin, end) = (marker("begin"), marker("end"));
    let (head, rest) = page.split_once(&begin)?;
    let (_, tail) = rest.split_once(&end)?;
    Some(format!("{head}{begin}\n{}\n{end}{tail}", generated.trim_end()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::rows::selected;
    use super::super::stats::Work;
    use super::*;

    const PROBE: Probe = Probe { int8_gmacs: 100.0, f32_gmacs: 50.0, bf16_gmacs: None, dram_gbs: 20.0 };

    pub(in super::super) fn finished(id: &str, ours: f64, theirs: f64) -> Finished {
        let row = &selected(&[id.into()]).unwrap()[0];
        let measured = Measured {
            row: id.into(),
            samples: BTreeMap::from([(OURS.into(), vec![ours; 7]), ("llama.cpp".into(), vec![theirs; 7])]),
            settings: BTreeMap::new(),
            probe: PROBE,
            work: Some(Work { tokens: 512.0, macs: 51.2e9, bytes: 1.0 }),
        };
        Finished::of(row, &measured, &PROBE).unwrap()
    }

    pub(in super::super) fn report(rows: Vec<Finished>) -> Report {
        let circumstances =
            Circumstances { commit: "abc".into(), changes: String::new(), machine: "m".into(), threads: 2 };
        Report {
            model: "M".into(),
            peers: vec!["p==1".into()],
            circumstances,
            pairs: 7,
            best_probe: PROBE,
            rows,
        }
    }

    #[test]
    fn a_row_tells_ratio_bar_verdict_and_shares_of_the_limit() {
        let row = finished("prefill-512/Q4_0", 500.0, 250.0);
        let cells = [
            "prefill-512/Q4_0",
            "500 tok/s",
            "llama.cpp",
            "250 tok/s",
            "2.00 [2.00, 2.00]",
            "≥ 2.4",
            "MISSED",
            "50% of arithmetic",
            "25%",
        ];
        assert_eq!(row.cells(), [cells.map(str::to_owned)]);
        assert_eq!(report(vec![row]).exit_code(), 1);
    }

    #[test]
    fn advantages_of_what_should_be_small_are_turned_round() {
        let row = finished("start/Q4_0", 100.0, 400.0);
        let advantages = row.advantages();
        let [(Peer::LlamaCpp, summary, Some(bar))] = advantages.as_slice() else { panic!("{advantages:?}") };
        assert_eq!((summary.median, *bar), (4.0, 2.5));
    }

    #[test]
    fn interference_is_held_to_its_own_figure() {
        let row = finished("interference/Q4_0", 0.5, 0.25);
        let verdicts: Vec<_> =
            row.comparisons.iter().map(|c| (c.measure, c.summary.median, c.verdict)).collect();
        assert_eq!(
            verdicts,
            [(Measure::RatioTo(Peer::LlamaCpp), 2.0, Verdict::NoBar), (Measure::Ours, 0.5, Verdict::Held)]
        );
    }

    #[test]
    fn the_generated_part_replaces_only_what_is_between_the_markers() {
        let marker = |end: &str| format!("<!-- cargo xtask bench x: {end} -->");
        let page = |inside: &str| format!("a\n{}\n{inside}\n{}\nb\n", marker("begin"), marker("end"));
        assert_eq!(put_between_markers(&page("old"), "x", "new\n"), Some(page("new")));
        assert_eq!(put_between_markers(&page("old"), "y", "new\n"), None);
    }

    #[test]
    fn the_page_says_what_was_measured_where() {
        let page = report(vec![finished("start/Q4_0", 100.0, 400.0)]).markdown("x.svg");
        assert!(page.contains("M, commit abc, 2 threads, pairs a row: 7, against p==1."), "{page}");
        assert!(
            page.contains("| start/Q4_0 | 100 ms | llama.cpp | 400 ms | 0.25 [0.25, 0.25] | ≤ 0.4 | held |")
        );
    }
}
