//! Draws a run: the loss of every step, and perplexity and KL to the teacher on validation text.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::error::DistillError;
use super::report::Line;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type DrawResult = Result<(), DrawingAreaErrorKind<std::io::Error>>;

const SIZE: (u32, u32) = (1200, 420);
const FONT: &str = "sans-serif";
const BLUE: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);

/// Writes the picture to `path`.
pub(super) fn draw(lines: &[Line], path: &Path) -> Result<(), DistillError> {
    let mut svg = String::new();
    let failed =
        |error: DrawingAreaErrorKind<_>| DistillError::Draw { path: path.to_owned(), why: error.to_string() };
    render(lines, &mut svg).map_err(failed)?;
    std::fs::write(path, svg).map_err(DistillError::write(path))
}

fn render(lines: &[Line], svg: &mut String) -> DrawResult {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let panels = root.margin(4, 12, 12, 12).split_evenly((1, 3));
    let steps = |value: fn(&Line) -> Option<(usize, f64)>| -> Vec<(f64, f64)> {
        lines.iter().filter_map(value).map(|(step, y)| (step as f64, y)).collect()
    };
    let loss = steps(|line| match line {
        Line::Step(line) => Some((line.step, line.loss)),
        Line::Validation(_) => None,
    });
    let perplexity = steps(|line| match line {
        Line::Validation(found) => Some((found.step, found.perplexity)),
        Line::Step(_) => None,
    });
    let kl = steps(|line| match line {
        Line::Validation(found) => Some((found.step, found.kl_to_teacher)),
        Line::Step(_) => None,
    });
    curve(&panels[0], "Training loss", &loss, false)?;
    curve(&panels[1], "Validation perplexity", &perplexity, true)?;
    curve(&panels[2], "Validation KL to the teacher", &kl, true)?;
    root.present()
}

/// A line over steps, with dots where the points are few.
fn curve(area: &Area<'_>, title: &str, points: &[(f64, f64)], dots: bool) -> DrawResult {
    let finite: Vec<(f64, f64)> = points.iter().copied().filter(|(_, y)| y.is_finite()).collect();
    let Some(&(last, _)) = finite.last() else {
        return area.draw_text(
            &format!("{title}: nothing yet"),
            &(FONT, 16).into_font().color(&INK),
            (24, 24),
        );
    };
    let low = finite.iter().map(|(_, y)| *y).fold(f64::INFINITY, f64::min);
    let high = finite.iter().map(|(_, y)| *y).fold(f64::NEG_INFINITY, f64::max);
    // A straight line still needs an axis of some height.
    let room = ((high - low) * 0.08).max(high.abs() * 1e-3).max(1e-9);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 18).into_font().color(&INK))
        .margin(10)
        .margin_right(24)
        .x_label_area_size(42)
        .y_label_area_size(62)
        .build_cartesian_2d(0.0..last.max(1.0), low - room..high + room)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style((FONT, 13).into_font().color(&INK))
        .x_desc("steps")
        .x_labels(6)
        .x_label_formatter(&|x| format!("{x}"))
        .y_labels(6)
        .y_label_formatter(&|y| format!("{y:.3}"))
        .draw()?;
    chart.draw_series(LineSeries::new(finite.iter().copied(), BLUE.stroke_width(2)))?;
    if dots {
        chart.draw_series(finite.iter().map(|point| Circle::new(*point, 3, BLUE.filled())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::report::Validation;
    use super::*;

    #[test]
    fn a_run_of_any_length_is_drawn() {
        let found = |step| {
            Line::Validation(Validation {
                step,
                perplexity: 9.5,
                kl_to_teacher: 0.5,
                top1_agreement: 0.5,
                teacher_perplexity: 8.0,
                positions: 10,
            })
        };
        for lines in [vec![], vec![found(0)], vec![found(0), found(7)]] {
            let mut svg = String::new();
            render(&lines, &mut svg).unwrap();
            assert!(svg.contains("Validation perplexity") && svg.ends_with("</svg>\n"), "{svg}");
            assert_eq!(svg.matches("<circle").count(), 2 * lines.len());
        }
    }
}
