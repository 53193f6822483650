//! Draws a report: replicas, held requests and misses over time, a line for each policy.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Outcome, Report, SimError};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type DrawResult = Result<(), DrawingAreaErrorKind<std::io::Error>>;

const SIZE: (u32, u32) = (1200, 960);
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x1f, 0x6f, 0xb4),
    RGBColor(0xd9, 0x6b, 0x0c),
    RGBColor(0x2a, 0x8c, 0x4a),
    RGBColor(0x8a, 0x8a, 0x8a),
    RGBColor(0x8e, 0x44, 0xad),
    RGBColor(0xb0, 0x2a, 0x37),
];

pub(crate) fn draw(report: &Report) -> Result<String, SimError> {
    let mut svg = String::new();
    render(report, &mut svg).map_err(|e| SimError::Draw { why: e.to_string() })?;
    Ok(svg)
}

fn render(report: &Report, svg: &mut String) -> DrawResult {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(72);
    let title =
        format!("{}: {} requests in {:.1} h", report.scenario, report.requests, report.duration_s / 3600.0);
    head.draw_text(&title, &(FONT, 22).into_font().color(&INK), (24, 14))?;
    let mut x = 24;
    for (outcome, colour) in report.outcomes.iter().zip(COLOURS.iter().cycle()) {
        let hours = outcome.replica_seconds / 3600.0;
        let text = format!("{} ({hours:.1} replica-h, {} late)", outcome.policy, outcome.ttft_misses);
        head.draw(&Rectangle::new([(x, 48), (x + 14, 62)], colour.filled()))?;
        head.draw_text(&text, &(FONT, 15).into_font().color(&INK), (x + 20, 47))?;
        x += 44 + 8 * text.len() as i32;
    }
    let panels = body.margin(4, 12, 12, 12).split_evenly((3, 1));
    over_time(&panels[0], "Replicas", report, |o| o.timeline.replicas.clone())?;
    over_time(&panels[1], "Held requests", report, |o| o.timeline.queue.clone())?;
    over_time(&panels[2], "Requests whose first token was late, by when they came, a minute", report, |o| {
        let minutes = (o.timeline.span_s / 60.0).max(f64::MIN_POSITIVE);
        o.timeline.misses.iter().map(|n| *n as f64 / minutes).collect()
    })?;
    root.present()
}

fn over_time(area: &Area<'_>, title: &str, report: &Report, values: fn(&Outcome) -> Vec<f64>) -> DrawResult {
    let lines: Vec<Vec<f64>> = report.outcomes.iter().map(values).collect();
    let most = lines.iter().flatten().copied().filter(|y| y.is_finite()).fold(0.0, f64::max);
    let minutes = report.duration_s / 60.0;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 18).into_font().color(&INK))
        .margin(8)
        .margin_right(24)
        .x_label_area_size(36)
        .y_label_area_size(62)
        .build_cartesian_2d(0.0..minutes, 0.0..if most > 0.0 { most * 1.08 } else { 1.0 })?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style((FONT, 13).into_font().color(&INK))
        .x_desc("minutes since the start")
        .x_labels(12)
        .x_label_formatter(&|x| format!("{x}"))
        .y_labels(6)
        .y_label_formatter(&|y| format!("{y}"))
        .draw()?;
    let colours = COLOURS.iter().cycle().take(lines.len());
    let series: Vec<_> = report.outcomes.iter().zip(&lines).zip(colours).collect();
    // The first policy is what the picture is about: it is drawn last, above the others.
    for ((outcome, line), colour) in series.into_iter().rev() {
        let span = outcome.timeline.span_s / 60.0;
        let points = line.iter().enumerate().map(|(i, y)| ((i as f64 + 0.5) * span, *y));
        chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
    }
    Ok(())
}
