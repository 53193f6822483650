//! Turns samples into numbers: percentiles, rates, errors by kind. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::load::{Run, Sample};
use super::workload::{Pace, Workload};

/// Everything that is known about a run; serialised for `--output json`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) url: String,
    pub(crate) model: String,
    pub(crate) workload: Workload,
    pub(crate) interrupted: bool,
    pub(crate) elapsed_s: f64,
    pub(crate) requests: Requests,
    pub(crate) tokens: Tokens,
    pub(crate) latency: Latency,
    /// How late the load itself was: sending minus due time of an open loop's requests.
    pub(crate) send_delay_ms: Option<Summary>,
    /// Output over time, one entry per `bin_s`.
    pub(crate) timeline: Timeline,
    #[serde(skip)]
    pub(crate) curves: Curves,
}

/// What became of the requests.
#[derive(Debug, Serialize)]
pub(crate) struct Requests {
    pub(crate) sent: usize,
    pub(crate) succeeded: usize,
    pub(crate) failed: usize,
    /// Still under way when the user interrupted.
    pub(crate) abandoned: usize,
    pub(crate) per_second: f64,
    pub(crate) errors: BTreeMap<String, ErrorCount>,
}

/// Failures of one kind.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorCount {
    pub(crate) count: usize,
    /// The first message of this kind.
    pub(crate) example: String,
}

/// Token counts of the successful requests.
#[derive(Debug, Serialize)]
pub(crate) struct Tokens {
    /// Requests whose tokens the server reported; the others count one token per piece of text.
    pub(crate) reported_by_server: usize,
    /// `None` unless the server reported every request's.
    pub(crate) prompt: Option<u64>,
    pub(crate) output: u64,
    pub(crate) output_per_second: f64,
    pub(crate) prompt_per_second: Option<f64>,
}

/// Latencies of the successful requests, in milliseconds from the intended start.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) first_token_ms: Option<Summary>,
    /// Gaps between pieces of text, all requests together.
    pub(crate) between_tokens_ms: Option<Summary>,
    /// Time after the first token divided by the tokens after the first, per request.
    pub(crate) per_output_token_ms: Option<Summary>,
    pub(crate) request_ms: Option<Summary>,
}

/// Percentiles by linear interpolation between closest ranks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// Output and concurrency over time.
#[derive(Debug, Serialize)]
pub(crate) struct Timeline {
    pub(crate) bin_s: f64,
    /// Output tokens per second that arrived within each bin.
    pub(crate) tokens_per_second: Vec<f64>,
    /// Mean number of requests under way within each bin.
    pub(crate) under_way: Vec<f64>,
}

/// Sorted values in milliseconds, for drawing.
#[derive(Debug, Default)]
pub(crate) struct Curves {
    pub(crate) first_token: Vec<f64>,
    pub(crate) between_tokens: Vec<f64>,
    pub(crate) request: Vec<f64>,
}

impl Report {
    pub(crate) fn new(url: &str, model: &str, workload: &Workload, run: &Run) -> Report {
        let elapsed_s = run.elapsed_s;
        let good: Vec<&Sample> = run.samples.iter().filter(|s| s.error.is_none()).collect();
        let curves = Curves {
            first_token: sorted(good.iter().filter_map(|s| Some(ms(s.texts.first()? - s.intended)))),
            between_tokens: sorted(good.iter().flat_map(|s| s.texts.windows(2).map(|w| ms(w[1] - w[0])))),
            request: sorted(good.iter().map(|s| ms(s.ended - s.intended))),
        };
        let per_output_token = sorted(good.iter().filter_map(|s| per_output_token(s)).map(ms));
        let send_delay = match workload.pace {
            Pace::Open { .. } => summarize(&sorted(run.samples.iter().map(|s| ms(s.sent - s.intended)))),
            Pace::Closed { .. } => None,
        };
        Report {
            url: url.to_owned(),
            model: model.to_owned(),
            workload: workload.clone(),
            interrupted: run.interrupted,
            elapsed_s,
            requests: Requests {
                sent: run.samples.len() + run.abandoned,
                succeeded: good.len(),
                failed: run.samples.len() - good.len(),
                abandoned: run.abandoned,
                per_second: good.len() as f64 / elapsed_s,
                errors: errors(&run.samples),
            },
            tokens: tokens(&good, elapsed_s),
            latency: Latency {
                first_token_ms: summarize(&curves.first_token),
                between_tokens_ms: summarize(&curves.between_tokens),
                per_output_token_ms: summarize(&per_output_token),
                request_ms: summarize(&curves.request),
            },
            send_delay_ms: send_delay,
            timeline: timeline(&run.samples, elapsed_s),
            curves,
        }
    }

    /// The report for people.
    pub(crate) fn table(&self) -> String {
        let Report { url, model, workload, elapsed_s, requests, tokens, latency, .. } = self;
        let mut text = String::new();
        let mut line = |label: &str, value: String| {
            writeln!(text, "{label:<20}{value}").expect("writing to a string cannot fail");
        };
        line("server", format!("{url}, model {model}"));
        line("load", describe(workload));
        let mut counts = format!("{} answered, {} failed", requests.succeeded, requests.failed);
        if requests.abandoned > 0 {
            counts += &format!(", {} cut off by Ctrl-C", requests.abandoned);
        }
        line("requests", format!("{counts} in {elapsed_s:.1} s"));
        line(
            "throughput",
            format!("{:.1} output tokens/s, {:.2} requests/s", tokens.output_per_second, requests.per_second),
        );
        let prompt = match (tokens.prompt, tokens.prompt_per_second) {
            (Some(prompt), Some(rate)) => format!("{prompt} in ({rate:.1}/s)"),
            _ => "in: not reported by the server".into(),
        };
        line("tokens", format!("{prompt}, {} out{}", tokens.output, self.counting_note()));
        line("", format!("{:>9} {:>9} {:>9} {:>9} {:>9} {:>9}", "mean", "p50", "p90", "p95", "p99", "max"));
        for (label, summary) in [
            ("first token, ms", latency.first_token_ms),
            ("between tokens, ms", latency.between_tokens_ms),
            ("per token, ms", latency.per_output_token_ms),
            ("request, ms", latency.request_ms),
            ("sent late, ms", self.send_delay_ms),
        ] {
            if let Some(Summary { mean, p50, p90, p95, p99, max }) = summary {
                line(label, format!("{mean:>9.1} {p50:>9.1} {p90:>9.1} {p95:>9.1} {p99:>9.1} {max:>9.1}"));
            }
        }
        for (kind, ErrorCount { count, example }) in &requests.errors {
            line("failed", format!("{count} x {kind}, first: {example}"));
        }
        text
    }

    fn counting_note(&self) -> String {
        let unreported = self.requests.succeeded - self.tokens.reported_by_server;
        match unreported {
            0 => String::new(),
            n if n == self.requests.succeeded => " (pieces of text: the server reports no usage)".into(),
            n => format!(" (pieces of text where usage was not reported: {n} of the requests)"),
        }
    }
}

fn describe(workload: &Workload) -> String {
    let Workload { pace, requests, duration, prompt_words, output_tokens, shared_prefix, ignore_eos, seed } =
        workload;
    let mut parts = vec![match pace {
        Pace::Closed { concurrency } => format!("closed loop, {concurrency} at a time"),
        Pace::Open { rate } => format!("open loop, {rate} requests/s"),
    }];
    parts.extend(requests.map(|n| format!("{n} requests")));
    parts.extend(duration.map(|d| format!("{} s", d.as_secs_f64())));
    parts.push(format!("prompt {prompt_words} words"));
    if *shared_prefix > 0 {
        parts.push(format!("after {shared_prefix} shared"));
    }
    parts.push(format!("output {}{output_tokens} tokens", if *ignore_eos { "" } else { "up to " }));
    parts.push(format!("seed {seed}"));
    parts.join(", ")
}

fn ms(seconds: f64) -> f64 {
    seconds * 1000.0
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// `values` ascending; `None` when there are none.
fn summarize(values: &[f64]) -> Option<Summary> {
    Some(Summary {
        mean: values.iter().sum::<f64>() / values.len() as f64,
        p50: percentile(values, 0.50)?,
        p90: percentile(values, 0.90)?,
        p95: percentile(values, 0.95)?,
        p99: percentile(values, 0.99)?,
        max: *values.last()?,
    })
}

/// `values` ascending, `q` in 0..=1; `None` when there are no values.
pub(crate) fn percentile(values: &[f64], q: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    let rank = q * last as f64;
    let (low, high) = (values[rank.floor() as usize], values[rank.ceil() as usize]);
    Some(low + (high - low) * rank.fract())
}

fn output_tokens(sample: &Sample) -> u64 {
    sample.usage.map_or(sample.texts.len() as u64, |(_, output)| output)
}

fn per_output_token(sample: &Sample) -> Option<f64> {
    let tokens = output_tokens(sample);
    (tokens > 1).then_some((sample.texts.last()? - sample.texts.first()?) / (tokens - 1) as f64)
}

fn tokens(good: &[&Sample], elapsed_s: f64) -> Tokens {
    let reported = good.iter().filter(|s| s.usage.is_some()).count();
    let output: u64 = good.iter().map(|s| output_tokens(s)).sum();
    let prompt = (reported == good.len() && reported > 0)
        .then(|| good.iter().filter_map(|s| s.usage).map(|(prompt, _)| prompt).sum::<u64>());
    Tokens {
        reported_by_server: reported,
        prompt,
        output,
        output_per_second: output as f64 / elapsed_s,
        prompt_per_second: prompt.map(|p| p as f64 / elapsed_s),
    }
}

fn errors(samples: &[Sample]) -> BTreeMap<String, ErrorCount> {
    let mut errors = BTreeMap::new();
    for (kind, message) in samples.iter().filter_map(|s| s.error.as_ref()) {
        errors
            .entry(kind.clone())
            .or_insert_with(|| ErrorCount { count: 0, example: message.clone() })
            .count += 1;
    }
    errors
}

/// At most this many bins, so that the picture and the JSON stay readable.
const MAX_BINS: f64 = 120.0;

fn timeline(samples: &[Sample], elapsed_s: f64) -> Timeline {
    let bin_s = [0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0]
        .into_iter()
        .find(|bin| elapsed_s / bin <= MAX_BINS)
        .unwrap_or(elapsed_s / MAX_BINS);
    let bins = (elapsed_s / bin_s).ceil().max(1.0) as usize;
    // The last bin is shorter than the others.
    let width = |i: usize| (elapsed_s - i as f64 * bin_s).min(bin_s).max(f64::MIN_POSITIVE);
    let mut tokens = vec![0.0; bins];
    let mut under_way = vec![0.0; bins];
    for sample in samples {
        // A piece may hold several tokens: the request's total is spread evenly over its pieces.
        let weight = output_tokens(sample) as f64 / sample.texts.len().max(1) as f64;
        for at in &sample.texts {
            tokens[((at / bin_s) as usize).min(bins - 1)] += weight;
        }
        let first = ((sample.sent / bin_s) as usize).min(bins - 1);
        for (i, busy) in under_way.iter_mut().enumerate().skip(first) {
            let overlap = sample.ended.min((i + 1) as f64 * bin_s) - sample.sent.max(i as f64 * bin_s);
            if overlap <= 0.0 {
                break;
            }
            *busy += overlap;
        }
    }
    for i in 0..bins {
        tokens[i] /= width(i);
        under_way[i] /= width(i);
    }
    Timeline { bin_s, tokens_per_second: tokens, under_way }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::workload::Lengths;
    use super::*;

    fn workload(pace: Pace) -> Workload {
        Workload {
            pace,
            requests: Some(3),
            duration: None,
            prompt_words: Lengths::Fixed(10),
            output_tokens: Lengths::Uniform { low: 2, high: 4 },
            shared_prefix: 0,
            ignore_eos: true,
            seed: 1,
        }
    }

    fn sample(intended: f64, sent: f64, texts: &[f64], usage: Option<(u64, u64)>) -> Sample {
        let ended = texts.last().map_or(sent, |t| t + 0.01);
        Sample { intended, sent, texts: texts.to_vec(), ended, usage, error: None }
    }

    fn run(samples: Vec<Sample>) -> Run {
        Run { samples, abandoned: 0, elapsed_s: 2.0, interrupted: false }
    }

    #[test]
    fn percentiles_interpolate_between_ranks() {
        let values = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(percentile(&values, 0.5), Some(2.5));
        assert_eq!(percentile(&values, 0.0), Some(1.0));
        assert_eq!(percentile(&values, 1.0), Some(4.0));
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!(percentile(&[7.0], 0.99), Some(7.0));
    }

    #[test]
    fn open_loop_latency_counts_from_the_intended_start() {
        let late = sample(0.5, 1.0, &[1.2], Some((5, 1)));
        let report = Report::new("u", "m", &workload(Pace::Open { rate: 1.0 }), &run(vec![late]));
        assert!((report.latency.first_token_ms.unwrap().p50 - 700.0).abs() < 1e-9);
        assert!((report.send_delay_ms.unwrap().max - 500.0).abs() < 1e-9);
    }

    #[test]
    fn the_table_shows_failures_and_how_tokens_were_counted() {
        let mut failed = sample(0.0, 0.0, &[], None);
        failed.error = Some(("http 429".into(), "too many requests".into()));
        let samples = vec![
            sample(0.0, 0.0, &[0.1, 0.2, 0.3], Some((12, 4))),
            sample(0.0, 0.0, &[0.2, 0.4], None),
            failed,
        ];
        let report =
            Report::new("http://h/v1", "m", &workload(Pace::Closed { concurrency: 2 }), &run(samples));
        expect![[r#"
            server              http://h/v1, model m
            load                closed loop, 2 at a time, 3 requests, prompt 10 words, output 2..4 tokens, seed 1
            requests            2 answered, 1 failed in 2.0 s
            throughput          3.0 output tokens/s, 1.00 requests/s
            tokens              in: not reported by the server, 6 out (pieces of text where usage was not reported: 1 of the requests)
                                     mean       p50       p90       p95       p99       max
            first token, ms         150.0     150.0     190.0     195.0     199.0     200.0
            between tokens, ms      133.3     100.0     180.0     190.0     198.0     200.0
            per token, ms           133.3     133.3     186.7     193.3     198.7     200.0
            request, ms             360.0     360.0     400.0     405.0     409.0     410.0
            failed              1 x http 429, first: too many requests
        "#]].assert_eq(&report.table());
    }

    #[test]
    fn the_timeline_keeps_every_token() {
        let samples = vec![
            sample(0.0, 0.0, &[0.1, 0.9, 1.99], Some((1, 6))),
            sample(0.5, 0.5, &[1.0, 2.0], Some((1, 2))),
        ];
        let timeline = timeline(&samples, 2.0);
        let tokens: f64 = timeline.tokens_per_second.iter().map(|rate| rate * timeline.bin_s).sum();
        assert!((tokens - 8.0).abs() < 1e-9, "{tokens}");
        let busy: f64 = timeline.under_way.iter().map(|n| n * timeline.bin_s).sum();
        assert!((busy - (2.0 + 1.5)).abs() < 0.02, "{busy}");
    }
}
