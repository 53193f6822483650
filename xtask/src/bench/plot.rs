//! Draws how many times better than each peer we are, as an SVG of horizontal bars on a logarithmic axis.

use std::fmt::Write as _;

use super::report::Report;
use super::rows::Peer;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 230.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 70.0;
const LINE: f64 = 22.0;

/// The picture; the same report gives the same text.
pub(crate) fn draw(report: &Report) -> String {
    let mut bars = Vec::new();
    for row in &report.rows {
        for (peer, summary, bar) in row.advantages() {
            bars.push((format!("{} / {}", row.row, peer.name()), peer, summary, bar));
        }
    }
    let values = bars.iter().flat_map(|(_, _, summary, bar)| [Some(summary.q1), Some(summary.q3), *bar]);
    let usable = values.flatten().filter(|value| value.is_finite() && *value > 0.0);
    let (low, high) = usable.fold((0.5f64, 2.0f64), |(low, high), value| (low.min(value), high.max(value)));
    let (low, high) = (low.log2().floor(), high.log2().ceil());
    let x = |value: f64| LEFT + (value.log2() - low) / (high - low) * (WIDTH - LEFT - RIGHT);
    let height = TOP + bars.len() as f64 * LINE + 20.0;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    let mut put = |text: String| writeln!(svg, "{text}").expect("a string takes everything");
    put(format!(
        "<text x=\"16\" y=\"24\" font-size=\"16\" fill=\"#333\">{}: how many times better than the peer (whiskers: quartiles; \
         ticks: bars to clear)</text>",
        escape(&report.model)
    ));
    for power in low as i32..=high as i32 {
        let (value, at) = (2f64.powi(power), x(2f64.powi(power)));
        let colour = if power == 0 { "#333" } else { "#e4e4e4" };
        put(format!(
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
            height - 20.0
        ));
        put(format!(
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#333\">{value}</text>",
            TOP - 8.0
        ));
    }
    for (index, (label, peer, summary, bar)) in bars.iter().enumerate() {
        let y = TOP + index as f64 * LINE + 4.0;
        let middle = y + 7.0;
        let (from, to) = (x(1.0).min(x(summary.median)), x(1.0).max(x(summary.median)));
        let colour = match peer {
            Peer::LlamaCpp => "#1f6fb4",
            Peer::OpenVino => "#d96b0c",
        };
        put(format!(
            "<text x=\"16\" y=\"{:.1}\" fill=\"#333\" font-size=\"11\">{}</text>",
            y + 11.0,
            escape(label)
        ));
        put(format!(
            "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"14\" fill=\"{colour}\"/>",
            to - from
        ));
        let (q1, q3) = (x(summary.q1), x(summary.q3));
        put(format!(
            "<line x1=\"{q1:.1}\" y1=\"{middle:.1}\" x2=\"{q3:.1}\" y2=\"{middle:.1}\" stroke=\"#333\"/>"
        ));
        if let Some(at) = bar.map(x) {
            put(format!(
                "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#c00\" stroke-width=\"2\"/>",
                y - 2.0,
                y + 16.0
            ));
        }
        put(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#333\" font-size=\"11\">{:.2}</text>",
            to.max(q3) + 6.0,
            y + 11.0,
            summary.median
        ));
    }
    svg.push_str("</svg>\n");
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{finished, report};
    use super::*;

    #[test]
    fn each_comparison_with_a_peer_is_a_bar_with_its_figure() {
        let svg = draw(&report(vec![
            finished("start/Q4_0", 100.0, 400.0),
            finished("interference/Q4_0", 0.5, 0.25),
        ]));
        assert_eq!(svg.matches("height=\"14\"").count(), 2);
        assert!(svg.contains(">4.00</text>") && svg.contains(">2.00</text>"), "{svg}");
        assert_eq!(svg.matches("#c00").count(), 1, "only the start has a bar against llama.cpp");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
