//! Draws both students over the tokens that they have read, as an SVG of two panels: perplexity and KL to the teacher, on
//! logarithmic axes because the pruned student starts far above.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 380.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 330.0;
/// First and last pixel of each panel's axis.
const PANELS: [(f64, f64); 2] = [(70.0, 430.0), (520.0, 880.0)];

/// A validation of `metrics.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(super) struct Point {
    step: f64,
    perplexity: f64,
    kl_to_teacher: f64,
}

/// The validations of a run.
pub(super) fn validations(metrics: &Path) -> anyhow::Result<Vec<Point>> {
    let text =
        std::fs::read_to_string(metrics).with_context(|| format!("failed to read {}", metrics.display()))?;
    // Lines of steps have no perplexity.
    let lines = text.lines().filter(|line| line.contains("\"perplexity\""));
    lines.map(|line| serde_json::from_str(line).context("failed to read a line of metrics.jsonl")).collect()
}

/// The picture; `tokens` is how many a step reads.
pub(super) fn draw(without: &[Point], with: &[Point], tokens: usize) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    let runs = [("without the teacher", "#d96b0c", without), ("with the teacher", "#1f6fb4", with)];
    let mut put = |text: String| writeln!(svg, "{text}").expect("a string takes everything");
    for (index, (name, colour, _)) in runs.iter().enumerate() {
        let y = 20.0 + 16.0 * index as f64;
        put(format!("<text x=\"{}\" y=\"{y}\" fill=\"{colour}\">{name}</text>", PANELS[1].1 - 130.0));
    }
    let titles = ["Validation perplexity", "Validation KL to the teacher"];
    let values: [fn(&Point) -> f64; 2] = [|point| point.perplexity, |point| point.kl_to_teacher];
    for ((title, value), (left, right)) in titles.into_iter().zip(values).zip(PANELS) {
        put(format!("<text x=\"{left}\" y=\"24\" font-size=\"16\" fill=\"#333\">{title}</text>"));
        let all = || runs.iter().flat_map(|(_, _, points)| points.iter());
        let usable = all().map(value).filter(|y| y.is_finite() && *y > 0.0).map(f64::log2);
        let (low, high) =
            usable.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
        let last = all().map(|point| point.step).fold(1.0, f64::max);
        if low > high {
            continue;
        }
        let (low, high) = (low.floor(), high.ceil().max(low.floor() + 1.0));
        let x = |step: f64| left + step / last * (right - left);
        let y = |log: f64| BOTTOM - (log - low) / (high - low) * (BOTTOM - TOP);
        let every = ((high - low) / 6.0).ceil().max(1.0) as i32;
        for power in (low as i32..=high as i32).filter(|power| (power - low as i32) % every == 0) {
            let at = y(f64::from(power));
            let label = 2f64.powi(power);
            put(format!(
                "<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#e4e4e4\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#333\">{label}</text>",
                left - 6.0,
                at + 4.0
            ));
        }
        for part in 0..=4 {
            let step = last * f64::from(part) / 4.0;
            put(format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#333\">{:.0}</text>",
                x(step),
                BOTTOM + 18.0,
                step * tokens as f64
            ));
        }
        put(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#333\">tokens</text>",
            f64::midpoint(left, right),
            BOTTOM + 36.0
        ));
        for (_, colour, points) in &runs {
            let line: Vec<String> = points
                .iter()
                .filter(|point| value(point).is_finite() && value(point) > 0.0)
                .map(|point| format!("{:.1},{:.1}", x(point.step), y(value(point).log2())))
                .collect();
            put(format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                line.join(" ")
            ));
            for (cx, cy) in line.iter().filter_map(|point| point.split_once(',')) {
                put(format!("<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3\" fill=\"{colour}\"/>"));
            }
        }
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validations_are_told_from_steps_and_each_is_a_dot_in_both_panels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let text = "{\"step\":0,\"perplexity\":1e6,\"kl_to_teacher\":10.5}\n{\"step\":1,\"loss\":3.0}\n\
                    {\"step\":8,\"perplexity\":200.0,\"kl_to_teacher\":2.5}\n";
        std::fs::write(&path, text).unwrap();
        let points = validations(&path).unwrap();
        assert_eq!(points.len(), 2);
        let svg = draw(&points, &points[..1], 1024);
        assert_eq!(svg.matches("<circle").count(), 6);
        assert!(svg.contains(">8192<") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(!draw(&[], &[], 1024).contains("NaN"));
    }
}
