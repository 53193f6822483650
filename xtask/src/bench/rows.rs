//! What is measured, against whom, and the bar of each row: the one table of it.

use serde::{Deserialize, Serialize};

/// Another engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    LlamaCpp,
    OpenVino,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::LlamaCpp => "llama.cpp",
            Peer::OpenVino => "OpenVINO",
        }
    }
}

/// What one measurement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One prompt from an empty context, tokens per second.
    Prefill { tokens: usize },
    /// Streams with contexts of their own, tokens per second of all together.
    Decode { streams: usize, context: usize },
    /// Milliseconds to the first token of a prompt whose first part the server has just seen.
    SharedPrefix { shared: usize, own: usize },
    /// Milliseconds from the start of a server's process to its first token, file in the page cache.
    Start,
    /// Peak resident megabytes of a server after a prompt that fills a context of 4096; ours with int8 keys and values or f16
    /// ones, the other's with f16 ones.
    Memory { int8: bool },
    /// Decoding rate of one stream beside a busy process, as a share of the undisturbed rate.
    Interference,
}

/// Tokens that one decoding stream gets in a measurement.
pub(crate) fn steps(streams: usize) -> usize {
    if streams == 1 { 64 } else { 32 }
}

impl Kind {
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Kind::Prefill { .. } | Kind::Decode { .. } => "tok/s",
            Kind::SharedPrefix { .. } | Kind::Start => "ms",
            Kind::Memory { .. } => "MB",
            Kind::Interference => "of undisturbed",
        }
    }

    /// Whether a larger figure is the better one.
    pub(crate) fn more_is_better(self) -> bool {
        match self {
            Kind::Prefill { .. } | Kind::Decode { .. } | Kind::Interference => true,
            Kind::SharedPrefix { .. } | Kind::Start | Kind::Memory { .. } => false,
        }
    }
}

/// What a bar speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measure {
    /// Our figure divided by the peer's.
    RatioTo(Peer),
    /// Our figure itself.
    Ours,
}

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

impl Bar {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Bar::AtLeast(limit) => value >= limit,
            Bar::AtMost(limit) => value <= limit,
        }
    }
}

impl std::fmt::Display for Bar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bar::AtLeast(limit) => write!(f, "≥ {limit}"),
            Bar::AtMost(limit) => write!(f, "≤ {limit}"),
        }
    }
}

/// One row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// `what/type of the weights`; what `--rows` is matched with.
    pub(crate) id: String,
    pub(crate) kind: Kind,
    /// Which of the derived files.
    pub(crate) file: &'static str,
    pub(crate) peers: Vec<Peer>,
}

/// Types of weights that there is a file of.
pub(crate) const FILES: [&str; 5] = ["Q4_0", "Q8_0", "Q4_1", "F16", "Q4_K"];

/// Another shape: a Llama of half a billion random weights in Q4_0 with eight KV heads, so that nothing is made for the demo model alone.
pub(crate) const OTHER_SHAPE: &str = "Llama-0.5B";

/// The bars: row pattern, what is compared, bar.
const BARS: &[(&str, Measure, Bar)] = &[
    ("prefill-512/Q4_0", Measure::RatioTo(Peer::LlamaCpp), Bar::AtLeast(2.4)),
    ("prefill-512/Q8_0", Measure::RatioTo(Peer::LlamaCpp), Bar::AtLeast(2.4)),
    ("prefill-512/Q4_1", Measure::RatioTo(Peer::LlamaCpp), Bar::AtLeast(2.4)),
    ("prefill-512/Q4_0", Measure::RatioTo(Peer::OpenVino), Bar::AtLeast(1.1)),
    ("prefill-512/Q8_0", Measure::RatioTo(Peer::OpenVino), Bar::AtLeast(1.1)),
    ("prefill-512/Q4_1", Measure::RatioTo(Peer::OpenVino), Bar::AtLeast(1.1)),
    ("decode-1@64/Q4_0", Measure::RatioTo(Peer::LlamaCpp), Bar::AtLeast(1.4)),
    ("decode-1@64/Q8_0", Measure::RatioTo(Peer::LlamaCpp), Bar::AtLeast(1.4)),
    ("decode-8/*", Measure::RatioTo(Peer::LlamaCpp), Bar::AtLeast(3.0)),
    ("decode-32/*", Measure::RatioTo(Peer::LlamaCpp), Bar::AtLeast(2.8)),
    ("decode-32/*", Measure::RatioTo(Peer::OpenVino), Bar::AtLeast(2.0)),
    ("decode-1@4096/*", Measure::RatioTo(Peer::LlamaCpp), Bar::AtLeast(1.5)),
    ("start/*", Measure::RatioTo(Peer::LlamaCpp), Bar::AtMost(0.4)),
    ("rss/*", Measure::RatioTo(Peer::LlamaCpp), Bar::AtMost(0.75)),
    ("rss-int8/*", Measure::RatioTo(Peer::LlamaCpp), Bar::AtMost(0.6)),
    ("interference/*", Measure::Ours, Bar::AtLeast(0.4)),
];

/// The bar of a row for what is compared, if it has one.
pub(crate) fn bar(row: &str, measure: Measure) -> Option<Bar> {
    let found = BARS.iter().find(|(pattern, of, _)| *of == measure && matches(pattern, row));
    found.map(|(_, _, bar)| *bar)
}

/// Every row, in the order in which they run.
pub(crate) fn all() -> Vec<Row> {
    let both = ["Q4_0", "Q8_0"];
    let mut rows = Vec::new();
    let mut add = |what: &str, kind: Kind, files: &[&'static str]| {
        for &file in files {
            let speed = matches!(kind, Kind::Prefill { .. } | Kind::Decode { .. });
            let mut peers = vec![Peer::LlamaCpp];
            if speed && OPENVINO_FILES.contains(&file) {
                peers.push(Peer::OpenVino);
            }
            rows.push(Row { id: format!("{what}/{file}"), kind, file, peers });
        }
    };
    for tokens in [128, 512, 2048] {
        add(&format!("prefill-{tokens}"), Kind::Prefill { tokens }, &FILES);
    }
    add("decode-1@64", Kind::Decode { streams: 1, context: 64 }, &FILES);
    for context in [1024, 4096] {
        add(&format!("decode-1@{context}"), Kind::Decode { streams: 1, context }, &both);
    }
    for streams in [8, 16, 32] {
        add(&format!("decode-{streams}"), Kind::Decode { streams, context: 64 }, &both);
    }
    add("prefill-512", Kind::Prefill { tokens: 512 }, &[OTHER_SHAPE]);
    for streams in [1, 8, 32] {
        let what = if streams == 1 { "decode-1@64".to_owned() } else { format!("decode-{streams}") };
        add(&what, Kind::Decode { streams, context: 64 }, &[OTHER_SHAPE]);
    }
    add("shared-prefix", Kind::SharedPrefix { shared: 1024, own: 32 }, &["Q4_0"]);
    add("start", Kind::Start, &["Q4_0", "Q4_1"]);
    add("rss", Kind::Memory { int8: false }, &["Q4_0", "Q4_1"]);
    add("rss-int8", Kind::Memory { int8: true }, &["Q4_0"]);
    add("interference", Kind::Interference, &["Q4_0"]);
    rows
}

/// Types that OpenVINO's GGUF reader is measured with.
const OPENVINO_FILES: [&str; 4] = ["Q4_0", "Q8_0", "Q4_1", OTHER_SHAPE];

/// The rows whose identifier matches one of the patterns; all of them without a pattern.
pub(crate) fn selected(patterns: &[String]) -> Result<Vec<Row>, String> {
    let rows = all();
    if patterns.is_empty() {
        return Ok(rows);
    }
    if let Some(idle) = patterns.iter().find(|p| !rows.iter().any(|row| matches(p, &row.id))) {
        let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        return Err(format!("no row matches {idle:?}; the rows are {}", ids.join(" ")));
    }
    Ok(rows.into_iter().filter(|row| patterns.iter().any(|p| matches(p, &row.id))).collect())
}

/// Whether `text` is what `pattern` says; `*` stands for any characters.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|text| {
            (0..=text.len()).filter(|&i| text.is_char_boundary(i)).any(|i| matches(rest, &text[i..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_speaks_of_a_row_that_is_measured_with_that_peer() {
        for (pattern, measure, _) in BARS {
            let rows: Vec<Row> = all().into_iter().filter(|row| matches(pattern, &row.id)).collect();
            assert!(!rows.is_empty(), "{pattern}");
            if let Measure::RatioTo(peer) = measure {
                assert!(rows.iter().all(|row| row.peers.contains(peer)), "{pattern}");
            }
        }
    }

    #[test]
    fn a_bar_points_to_where_better_is() {
        for row in all() {
            for measure in [Measure::RatioTo(Peer::LlamaCpp), Measure::RatioTo(Peer::OpenVino), Measure::Ours]
            {
                if let Some(bar) = bar(&row.id, measure) {
                    assert_eq!(matches!(bar, Bar::AtLeast(_)), row.kind.more_is_better(), "{}", row.id);
                }
            }
        }
    }

    #[test]
    fn identifiers_of_rows_are_unique() {
        let mut ids: Vec<String> = all().into_iter().map(|row| row.id).collect();
        let rows = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), rows);
    }

    #[test]
    fn patterns_select_rows() {
        let ids = |patterns: &[&str]| -> Vec<String> {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            selected(&patterns).unwrap().into_iter().map(|row| row.id).collect()
        };
        assert_eq!(ids(&["prefill-512/Q4_*"]), ["prefill-512/Q4_0", "prefill-512/Q4_1", "prefill-512/Q4_K"]);
        assert_eq!(ids(&["start/Q4_0", "rss/Q4_0"]), ["start/Q4_0", "rss/Q4_0"]);
        assert_eq!(ids(&["decode-1@*96/*8*"]), ["decode-1@4096/Q8_0"]);
        assert_eq!(ids(&[]).len(), all().len());
    }

    #[test]
    fn a_pattern_that_selects_nothing_is_an_error() {
        assert!(selected(&["prefill-513/*".into()]).unwrap_err().contains("prefill-513"));
    }
}
