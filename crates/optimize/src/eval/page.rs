//! Decides what a comparison of models looks like as a page: one table, and bars where people would rather look.

use std::fmt::Write as _;

use super::report::{EvalReport, Judged};
use super::stats::Estimate;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;color:#333;max-width:72em;margin:2em auto;padding:0 1em}\
h1{font-size:1.4em}table{border-collapse:collapse;width:100%}th,td{padding:.35em .6em;text-align:right;\
border-bottom:1px solid #e4e4e4;white-space:nowrap}th:first-child,td:first-child{text-align:left}small{color:#777}\
.bar{fill:#1f6fb4}.whisker{stroke:#333}svg{display:block;margin:.5em 0 2em}text{font:13px system-ui,sans-serif;fill:#333}";

/// What a chart shows of a model: what it is called, and the number if the model has it.
type Quantity = (&'static str, fn(&Judged) -> Option<Estimate>);

/// Charts, in their order on the page.
const CHARTS: [Quantity; 3] = [
    ("Mean KL divergence from the reference, nats (smaller is better)", |model| {
        Some(model.metrics.comparison.as_ref()?.kl_mean)
    }),
    ("Perplexity (smaller is better)", |model| Some(model.metrics.perplexity)),
    ("Size, MB", |model| Some(Estimate { value: model.bytes as f64 / 1e6, error: 0.0 })),
];

impl EvalReport {
    /// A page that needs nothing but itself.
    pub fn html(&self) -> String {
        let mut page = String::new();
        let write = write_page(self, &mut page);
        write.expect("writing to a string cannot fail");
        page
    }
}

fn write_page(report: &EvalReport, page: &mut String) -> std::fmt::Result {
    let EvalReport { text, window, windows, reference, models } = report;
    write!(
        page,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Comparison of models</title><style>{STYLE}</style><h1>Comparison of models</h1><p>{}: {windows} windows of {window} \
         tokens",
        escape(text)
    )?;
    if let Some(reference) = reference {
        write!(page, ", beside {}", escape(reference))?;
    }
    write!(
        page,
        ".</p><table><tr><th>model<th>MB<th>perplexity<th>ratio<th>KL mean<th>KL median<th>KL 99.9 %<th>same top<th>change of p, \
         RMS<th>tokens/s</tr>"
    )?;
    for Judged { model, bytes, tokens_per_second, metrics } in models {
        let number = |x: Estimate, digits: usize| {
            format!("{:.digits$} <small>± {:.digits$}</small>", x.value, x.error)
        };
        let percent =
            |x: Estimate| number(Estimate { value: 100.0 * x.value, error: 100.0 * x.error }, 2) + " %";
        let cells = match &metrics.comparison {
            Some(c) => [
                number(c.perplexity_ratio, 4),
                number(c.kl_mean, 5),
                format!("{:.5}", c.kl_median),
                format!("{:.4}", c.kl_p999),
                percent(c.same_top),
                percent(c.p_change_rms),
            ],
            None => std::array::from_fn(|_| "–".into()),
        };
        write!(
            page,
            "<tr><td>{}<td>{:.1}<td>{}<td>{}<td>{tokens_per_second:.0}</tr>",
            escape(model),
            *bytes as f64 / 1e6,
            number(metrics.perplexity, 3),
            cells.join("<td>")
        )?;
    }
    page.push_str("</table>");
    for (title, quantity) in CHARTS {
        chart(models, title, quantity, page)?;
    }
    page.push_str(
        "<p><small>± is a standard error; lines on bars span twice of it to each side.</small></p></html>\n",
    );
    Ok(())
}

/// Horizontal bars from zero, one for each model that has the number.
fn chart(
    models: &[Judged],
    title: &str,
    quantity: fn(&Judged) -> Option<Estimate>,
    page: &mut String,
) -> std::fmt::Result {
    let bars: Vec<(&str, Estimate)> =
        models.iter().filter_map(|model| Some((model.model.as_str(), quantity(model)?))).collect();
    let most = bars.iter().map(|(_, x)| x.value + 2.0 * x.error).fold(0.0, f64::max);
    if most <= 0.0 {
        return Ok(());
    }
    let scale = 480.0 / most;
    write!(page, "<h2>{title}</h2><svg width=920 height={}>", 28 * bars.len())?;
    for (row, (name, x)) in bars.into_iter().enumerate() {
        let (y, end) = (28 * row, x.value * scale);
        let spread = 2.0 * x.error * scale;
        write!(
            page,
            "<text x=0 y={}>{}</text><rect class=bar x=300 y={} width={end:.1} height=16 />\
             <line class=whisker x1={:.1} x2={:.1} y1={} y2={} /><text x={:.1} y={}>{}</text>",
            y + 17,
            escape(&shorten(name)),
            y + 4,
            300.0 + (end - spread).max(0.0),
            300.0 + end + spread,
            y + 12,
            y + 12,
            308.0 + end + spread,
            y + 17,
            significant(x.value)
        )?;
    }
    page.push_str("</svg>");
    Ok(())
}

/// The end of a path that fits beside a bar.
fn shorten(name: &str) -> String {
    let count = name.chars().count();
    match count > 40 {
        true => format!("…{}", name.chars().skip(count - 39).collect::<String>()),
        false => name.to_owned(),
    }
}

/// Four digits that count.
fn significant(x: f64) -> String {
    let digits = (3 - x.abs().max(1e-9).log10().floor() as i32).clamp(0, 9) as usize;
    format!("{x:.digits$}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::report::Metrics;
    use super::super::score::{Beside, TokenScore};
    use super::*;

    #[test]
    fn a_page_shows_every_model_and_escapes_names() {
        let beside = Some(Beside { log_p: -1.0, divergence: 0.25, same_top: true });
        let judged = |name: &str| Judged {
            model: name.into(),
            bytes: 5_000_000,
            tokens_per_second: 10.0,
            metrics: Metrics::new(&[TokenScore { log_p: -2.0, beside }]),
        };
        let report = EvalReport {
            text: "a & b".into(),
            window: 8,
            windows: 1,
            reference: Some("ref".into()),
            models: vec![judged("<one>"), judged("two")],
        };
        let page = report.html();
        assert!(page.contains("a &amp; b") && page.contains("&lt;one&gt;") && !page.contains("<one>"));
        assert_eq!(page.matches("class=bar").count(), 6);
        assert!(page.contains("0.25000"), "{page}");
    }

    #[test]
    fn numbers_keep_four_digits() {
        assert_eq!(significant(0.001_234_5), "0.001234");
        assert_eq!(significant(12.345_6), "12.35");
        assert_eq!(significant(123_456.0), "123456");
    }
}
