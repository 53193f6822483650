//! Draws a report: three latency distributions and the throughput over time, as one SVG.

use std::ops::Range;
use std::path::Path;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::report::{Report, Timeline, percentile};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type DrawResult = Result<(), DrawingAreaErrorKind<std::io::Error>>;

const SIZE: (u32, u32) = (1200, 840);
const FONT: &str = "sans-serif";
const BLUE: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const ORANGE: RGBColor = RGBColor(0xd9, 0x6b, 0x0c);
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);

/// Writes the picture to `path`.
pub(crate) fn draw(report: &Report, path: &Path) -> anyhow::Result<()> {
    let mut svg = String::new();
    render(report, &mut svg).map_err(|e| anyhow!("failed to draw {}: {e}", path.display()))?;
    std::fs::write(path, svg).map_err(|e| anyhow!("failed to write {}: {e}", path.display()))
}

fn render(report: &Report, svg: &mut String) -> DrawResult {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(64);
    head.draw_text(
        &format!("{} at {}", report.model, report.url),
        &(FONT, 22).into_font().color(&INK),
        (24, 14),
    )?;
    head.draw_text(
        &format!(
            "{} requests answered, {} failed; {:.1} output tokens/s, {:.2} requests/s",
            report.requests.succeeded,
            report.requests.failed,
            report.tokens.output_per_second,
            report.requests.per_second
        ),
        &(FONT, 15).into_font().color(&INK),
        (24, 42),
    )?;
    let panels = body.margin(4, 12, 12, 12).split_evenly((2, 2));
    distribution(&panels[0], "Time to first token", &report.curves.first_token)?;
    distribution(&panels[1], "Time between tokens", &report.curves.between_tokens)?;
    distribution(&panels[2], "Whole request", &report.curves.request)?;
    over_time(&panels[3], &report.timeline, report.elapsed_s)?;
    root.present()
}

/// The share of values up to x. `values` ascending, in milliseconds.
fn distribution(area: &Area<'_>, title: &str, values: &[f64]) -> DrawResult {
    let Some(&max) = values.last() else {
        return area.draw_text(
            &format!("{title}: no samples"),
            &(FONT, 16).into_font().color(&INK),
            (24, 24),
        );
    };
    let unit = Unit::for_max(max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 18).into_font().color(&INK))
        .margin(10)
        .margin_right(24)
        .x_label_area_size(42)
        .y_label_area_size(54)
        .build_cartesian_2d(axis(unit.scale(max)), 0.0..1.1)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style((FONT, 13).into_font().color(&INK))
        .x_desc(unit.name)
        .x_labels(7)
        .x_label_formatter(&|x| format!("{x}"))
        .y_desc("share of samples")
        .y_labels(6)
        .y_label_formatter(&|y: &f64| format!("{:.0} %", y * 100.0))
        .draw()?;
    chart.draw_series(LineSeries::new(steps(values, unit), BLUE.stroke_width(2)))?;
    for (name, q) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
        let x = unit.scale(percentile(values, q).expect("there is at least one value"));
        chart.draw_series([Circle::new((x, q), 4, ORANGE.filled())])?;
        let (px, py) = chart.backend_coord(&(x, q));
        let (left, top) = area.get_base_pixel();
        // Labels of the upper percentiles stand below their points and to the left, where the curve is not.
        let text = format!("{name} {}", unit.format(x));
        let width = 7 * text.len() as i32;
        let right_edge = area.dim_in_pixel().0 as i32 - 24;
        let fits = px - left + 10 + width < right_edge;
        let x_at = if fits { px - left + 10 } else { px - left - width - 10 };
        let y_at = match name {
            "p99" => py - top - 20,
            "p95" => py - top + 12,
            _ => py - top + 4,
        };
        // Keeps the label readable where the curve passes behind it.
        let behind = [(x_at - 2, y_at - 1), (x_at + width, y_at + 14)];
        area.draw(&Rectangle::new(behind, WHITE.mix(0.85).filled()))?;
        area.draw_text(&text, &(FONT, 13).into_font().color(&INK), (x_at, y_at))?;
    }
    Ok(())
}

fn over_time(area: &Area<'_>, timeline: &Timeline, elapsed_s: f64) -> DrawResult {
    let Timeline { bin_s, tokens_per_second, under_way } = timeline;
    let highest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("Output tokens/s (blue), requests under way (orange)", (FONT, 18).into_font().color(&INK))
        .margin(10)
        .x_label_area_size(42)
        .y_label_area_size(54)
        .right_y_label_area_size(54)
        .build_cartesian_2d(0.0..elapsed_s, axis(highest(tokens_per_second)))?
        .set_secondary_coord(0.0..elapsed_s, axis(highest(under_way)));
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style((FONT, 13).into_font().color(&INK))
        .x_desc("seconds since the start")
        .x_labels(8)
        .x_label_formatter(&|x| format!("{x}"))
        .y_desc("output tokens/s")
        .y_labels(6)
        .y_label_formatter(&|y| format!("{y}"))
        .draw()?;
    chart
        .configure_secondary_axes()
        .axis_style(INK)
        .label_style((FONT, 13).into_font().color(&INK))
        .y_desc("requests under way")
        .y_labels(6)
        .y_label_formatter(&|y| format!("{y}"))
        .draw()?;
    let mid = |i: usize| ((i as f64 + 0.5) * bin_s).min(elapsed_s);
    let line = |values: &[f64]| values.iter().enumerate().map(|(i, y)| (mid(i), *y)).collect::<Vec<_>>();
    chart.draw_series(LineSeries::new(line(tokens_per_second), BLUE.stroke_width(2)))?;
    chart.draw_secondary_series(LineSeries::new(line(under_way), ORANGE.stroke_width(2)))?;
    Ok(())
}

/// A distribution as a staircase; long runs are thinned to what a picture can show, extremes kept.
fn steps(values: &[f64], unit: Unit) -> Vec<(f64, f64)> {
    const MOST: usize = 1000;
    let n = values.len();
    let stride = n.div_ceil(MOST);
    let mut points = vec![(unit.scale(values[0]), 0.0)];
    let mut before = 0.0;
    for i in (0..n).step_by(stride).chain([n - 1]) {
        let (x, share) = (unit.scale(values[i]), (i + 1) as f64 / n as f64);
        points.extend([(x, before), (x, share)]);
        before = share;
    }
    points
}

/// From zero to a little above `max`, never empty.
fn axis(max: f64) -> Range<f64> {
    0.0..if max > 0.0 { max * 1.08 } else { 1.0 }
}

/// Milliseconds, or seconds once those would have five digits.
#[derive(Clone, Copy)]
struct Unit {
    name: &'static str,
    per_ms: f64,
}

impl Unit {
    fn for_max(max_ms: f64) -> Unit {
        if max_ms >= 10_000.0 { Unit { name: "s", per_ms: 1e-3 } } else { Unit { name: "ms", per_ms: 1.0 } }
    }

    fn scale(self, ms: f64) -> f64 {
        ms * self.per_ms
    }

    fn format(self, x: f64) -> String {
        let digits = if x >= 100.0 {
            0
        } else if x >= 10.0 {
            1
        } else {
            2
        };
        format!("{x:.digits$} {}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staircase_ends_at_the_whole_however_long_the_run() {
        for n in [1, 2, 999, 1000, 1001, 54_321] {
            let values: Vec<f64> = (0..n).map(f64::from).collect();
            let points = steps(&values, Unit::for_max(1.0));
            assert!(points.len() <= 2 * 1000 + 3);
            assert_eq!(points.last(), Some(&(f64::from(n - 1), 1.0)));
            assert!(points.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 <= w[1].1));
        }
    }
}
