//! Who asks, when, and for how much. Shapes of public traces are made again from their published statistics; no data is copied.

use std::path::{Path, PathBuf};

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::{Scenario, SimError};

/// A request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// When it comes, in seconds.
    pub at: f64,
    /// Tokens of its prompt.
    pub prompt: u32,
    /// Tokens of its answer.
    pub answer: u32,
}

impl Arrival {
    pub(crate) fn tokens(&self) -> u64 {
        u64::from(self.prompt) + u64::from(self.answer)
    }
}

/// Who asks, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Traffic {
    /// Independent requests at one rate.
    Constant {
        /// Requests a second.
        rps: f64,
    },
    /// The rate follows a sine, lowest at the beginning.
    Diurnal {
        /// Requests a second, on average.
        rps: f64,
        /// How far the rate swings, as a share of the mean, 0 to 1.
        swing: f64,
        /// Length of a day, in seconds.
        day_s: f64,
    },
    /// Calm and bursts take turns, each of random length (a Markov-modulated process).
    Bursty {
        /// Requests a second when it is calm.
        calm_rps: f64,
        /// Requests a second in a burst.
        burst_rps: f64,
        /// Mean length of a calm, in seconds.
        calm_s: f64,
        /// Mean length of a burst, in seconds.
        burst_s: f64,
    },
    /// Gamma-distributed gaps: below a shape of 1, requests come in bunches.
    Gamma {
        /// Requests a second.
        rps: f64,
        /// Shape; the coefficient of variation of the gaps is one over its root.
        shape: f64,
    },
    /// Many at once, after silence.
    Herds {
        /// Requests of one herd, within a second.
        size: u32,
        /// Mean time between herds, in seconds.
        every_s: f64,
    },
    /// As the code service of the Azure LLM inference trace 2023 (Azure/AzurePublicDataset; Patel et al., "Splitwise", ISCA 2024).
    /// Counted in the trace: 2.57 requests/s, 56% of windows of 10 s and 21% of windows of 60 s empty, variance over mean of requests per
    /// minute 161. Prompts: median 1469, 90% within 5186, at most 7437 tokens; answers: median 13, 90% within 55.
    AzureCode {
        /// Factor on the rate.
        scale: f64,
    },
    /// As the conversation service of the same trace: 5.53 requests/s, no empty windows of 10 s, variance over mean of requests per minute
    /// 20.6. Prompts: median 1020, 90% within 2734, at most 14050 tokens; answers: median 129, 90% within 424, at most 1000.
    AzureConversation {
        /// Factor on the rate.
        scale: f64,
    },
    /// As BurstGPT (Wang et al., arXiv 2401.17644; HPMLL/BurstGPT): 5.29 million requests in 121 days, gamma gaps (shape 0.5 in its
    /// generator), a daily rhythm, Zipf lengths (exponent 1.1, at most 1024 tokens in its generator).
    BurstGpt {
        /// Factor on the rate.
        scale: f64,
    },
    /// A file of lines `arrival,prompt,answer`: seconds, tokens, tokens. A first line of names is skipped.
    Trace {
        /// Where it is.
        path: PathBuf,
    },
}

/// Lengths of prompts and answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lengths {
    /// Tokens of prompts.
    pub prompt: LogNormal,
    /// Tokens of answers.
    pub answer: LogNormal,
}

impl Default for Lengths {
    fn default() -> Lengths {
        CONVERSATION
    }
}

/// A log-normal number of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogNormal {
    /// Half of them are shorter.
    pub median: f64,
    /// Nine in ten are shorter.
    pub p90: f64,
    /// None is longer.
    pub most: u32,
}

const CONVERSATION: Lengths = Lengths {
    prompt: LogNormal { median: 1020.0, p90: 2734.0, most: 14_050 },
    answer: LogNormal { median: 129.0, p90: 424.0, most: 1000 },
};
const CODE: Lengths = Lengths {
    prompt: LogNormal { median: 1469.0, p90: 5186.0, most: 7437 },
    answer: LogNormal { median: 13.0, p90: 55.0, most: 1899 },
};
/// Standard deviations between the median and nine tenths, or nineteen twentieths.
const Z90: f64 = 1.2816;
pub(crate) const Z95: f64 = 1.6449;

impl LogNormal {
    fn draw(&self, rng: &mut Rng) -> u32 {
        let sigma = (self.p90 / self.median).ln().max(0.0) / Z90;
        let value = log_normal(rng, self.median, sigma);
        (value.round() as u32).clamp(1, self.most.max(1))
    }
}

impl Traffic {
    /// Refuses what would never end or makes no sense.
    pub(crate) fn check(&self) -> Result<(), SimError> {
        let rate = |what, value: f64| match value.is_finite() && value >= 0.0 {
            true => Ok(()),
            false => Err(SimError::Number { what }),
        };
        let length = |what, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(SimError::Number { what }),
        };
        match self {
            Traffic::Constant { rps } => rate("rps", *rps),
            Traffic::Diurnal { rps, swing, day_s } => {
                rate("rps", *rps).and(rate("swing", *swing)).and(length("day_s", *day_s))
            }
            Traffic::Bursty { calm_rps, burst_rps, calm_s, burst_s } => rate("calm_rps", *calm_rps)
                .and(rate("burst_rps", *burst_rps))
                .and(length("calm_s", *calm_s))
                .and(length("burst_s", *burst_s)),
            Traffic::Gamma { rps, shape } => rate("rps", *rps).and(length("shape", *shape)),
            Traffic::Herds { size: _, every_s } => length("every_s", *every_s),
            Traffic::AzureCode { scale }
            | Traffic::AzureConversation { scale }
            | Traffic::BurstGpt { scale } => rate("scale", *scale),
            Traffic::Trace { path: _ } => Ok(()),
        }
    }

    /// The requests of a scenario, in order of time.
    pub(crate) fn generate(&self, scenario: &Scenario) -> Result<Vec<Arrival>, SimError> {
        let end = scenario.duration.as_secs_f64();
        let mut rng = Rng::with_seed(scenario.seed);
        let rng = &mut rng;
        let lengths = &scenario.lengths;
        let requests = match self {
            Traffic::Constant { rps } => filled(modulated(rng, end, &[(*rps, f64::INFINITY)]), lengths, rng),
            Traffic::Diurnal { rps, swing, day_s } => {
                let times = rhythm(rng, end, *rps, *swing, *day_s, |rng| exponential(rng, 1.0));
                filled(times, lengths, rng)
            }
            Traffic::Bursty { calm_rps, burst_rps, calm_s, burst_s } => {
                filled(modulated(rng, end, &[(*calm_rps, *calm_s), (*burst_rps, *burst_s)]), lengths, rng)
            }
            Traffic::Gamma { rps, shape } => {
                let times = rhythm(rng, end, *rps, 0.0, end, |rng| gamma(rng, *shape) / shape);
                filled(times, lengths, rng)
            }
            Traffic::Herds { size, every_s } => filled(herds(rng, end, *size, *every_s), lengths, rng),
            // Bursts of 15 s at 10.3 requests/s, 45 s of silence: what gives the counted shares of empty windows.
            Traffic::AzureCode { scale } => {
                filled(modulated(rng, end, &[(0.0, 45.0), (10.3 * scale, 15.0)]), &CODE, rng)
            }
            // A slow wave of 27% around the mean gives the counted variance over minutes.
            Traffic::AzureConversation { scale } => {
                let slow = [(4.03 * scale, 120.0), (7.03 * scale, 120.0)];
                filled(modulated(rng, end, &slow), &CONVERSATION, rng)
            }
            Traffic::BurstGpt { scale } => {
                let rps = 5_290_000.0 / (121.0 * 86_400.0) * scale;
                let times = rhythm(rng, end, rps, 0.8, 86_400.0, |rng| gamma(rng, 0.5) / 0.5);
                let zipf = Zipf::new(1.1, 1024);
                times
                    .into_iter()
                    .map(|at| Arrival { at, prompt: zipf.draw(rng), answer: zipf.draw(rng) })
                    .collect()
            }
            Traffic::Trace { path } => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| SimError::ReadTrace { path: path.clone(), source })?;
                let mut requests = parse_trace(&text, path)?;
                requests.retain(|r| r.at < end);
                requests
            }
        };
        Ok(requests)
    }
}

/// Times of a Poisson process whose rate goes through states of exponential length.
fn modulated(rng: &mut Rng, end: f64, states: &[(f64, f64)]) -> Vec<f64> {
    let (mut times, mut begins) = (Vec::new(), 0.0);
    for (rate, mean) in states.iter().cycle() {
        let ends = if mean.is_finite() { begins + exponential(rng, *mean) } else { end };
        // At rate 0 the first gap is infinite.
        let mut at = begins + exponential(rng, 1.0 / rate);
        while at < ends.min(end) {
            times.push(at);
            at += exponential(rng, 1.0 / rate);
        }
        begins = ends;
        if begins >= end {
            break;
        }
    }
    times
}

/// Gaps of mean 1 stretched by a rate that follows a sine.
fn rhythm(
    rng: &mut Rng,
    end: f64,
    rps: f64,
    swing: f64,
    day: f64,
    gap: impl Fn(&mut Rng) -> f64,
) -> Vec<f64> {
    let (mut times, mut at) = (Vec::new(), 0.0);
    if rps <= 0.0 {
        return times;
    }
    // Work through the integral of the rate in steps that are short against the day.
    let step = (day / 1000.0).min(1.0 / rps).max(1e-3);
    let rate = |at: f64| rps * (1.0 - swing.clamp(0.0, 1.0) * (std::f64::consts::TAU * at / day).cos());
    let mut due = gap(rng);
    while at < end {
        let adds = rate(at) * step;
        if adds < due {
            (due, at) = (due - adds, at + step);
            continue;
        }
        at += step * due / adds;
        if at < end {
            times.push(at);
        }
        due = gap(rng);
    }
    times
}

fn herds(rng: &mut Rng, end: f64, size: u32, every: f64) -> Vec<f64> {
    let (mut times, mut at) = (Vec::new(), 0.0);
    loop {
        at += exponential(rng, every).max(1.0);
        if at + 1.0 >= end {
            return times;
        }
        let mut herd: Vec<f64> = (0..size).map(|_| at + rng.f64()).collect();
        herd.sort_by(f64::total_cmp);
        times.extend(herd);
        at += 1.0;
    }
}

fn filled(times: Vec<f64>, lengths: &Lengths, rng: &mut Rng) -> Vec<Arrival> {
    let Lengths { prompt, answer } = lengths;
    times.into_iter().map(|at| Arrival { at, prompt: prompt.draw(rng), answer: answer.draw(rng) }).collect()
}

fn parse_trace(text: &str, path: &Path) -> Result<Vec<Arrival>, SimError> {
    let mut requests = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let parse = || {
            let mut fields = line.split(',').map(str::trim);
            let at = fields.next()?.parse::<f64>().ok().filter(|at| at.is_finite() && *at >= 0.0)?;
            let (prompt, answer) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            Some(Arrival { at, prompt, answer })
        };
        match parse() {
            Some(request) => requests.push(request),
            None if i == 0 || line.trim().is_empty() => {}
            None => {
                return Err(SimError::TraceLine {
                    path: path.to_owned(),
                    line: i + 1,
                    text: line.to_owned(),
                });
            }
        }
    }
    requests.sort_by(|a, b| a.at.total_cmp(&b.at));
    Ok(requests)
}

fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.f64()).ln()
}

fn normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}

pub(crate) fn log_normal(rng: &mut Rng, median: f64, sigma: f64) -> f64 {
    median * (sigma * normal(rng)).exp()
}

/// Marsaglia and Tsang, "A simple method for generating gamma variables" (2000), with the power of a uniform number for shapes below 1.
fn gamma(rng: &mut Rng, shape: f64) -> f64 {
    if shape < 1.0 {
        let uniform = 1.0 - rng.f64();
        return gamma(rng, shape + 1.0) * uniform.powf(1.0 / shape.max(1e-3));
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(rng);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && (1.0 - rng.f64()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

/// Numbers of which the k-th is as likely as k to the power of minus `exponent`.
struct Zipf {
    cumulative: Vec<f64>,
}

impl Zipf {
    fn new(exponent: f64, most: u32) -> Zipf {
        let mut sum = 0.0;
        let cumulative = (1..=most)
            .map(|k| {
                sum += f64::from(k).powf(-exponent);
                sum
            })
            .collect();
        Zipf { cumulative }
    }

    fn draw(&self, rng: &mut Rng) -> u32 {
        let at = rng.f64() * self.cumulative.last().copied().unwrap_or(0.0);
        self.cumulative.partition_point(|c| *c < at) as u32 + 1
    }
}

#[cfg(test)]
mod tests;
