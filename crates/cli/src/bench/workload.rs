//! Decides what is asked of the server and when: a pure function of the seed and the request's index, so
//! that two runs, or two servers, get the same load.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

/// The whole load, as the user described it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Workload {
    pub(crate) pace: Pace,
    /// Most requests to send.
    pub(crate) requests: Option<usize>,
    /// Longest time during which requests are sent.
    #[serde(serialize_with = "as_seconds", rename = "duration_s")]
    pub(crate) duration: Option<Duration>,
    pub(crate) prompt_words: Lengths,
    pub(crate) output_tokens: Lengths,
    pub(crate) shared_prefix: usize,
    pub(crate) ignore_eos: bool,
    pub(crate) seed: u64,
}

/// What lets the next request go.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "loop")]
pub(crate) enum Pace {
    /// The end of another one.
    Closed { concurrency: usize },
    /// Its time: Poisson arrivals with `rate` per second.
    Open { rate: f64 },
}

/// A distribution of lengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Lengths {
    Fixed(u32),
    Uniform { low: u32, high: u32 },
    Normal { mean: u32, deviation: u32 },
}

/// Beyond this a length is a mistyped one.
const LONGEST: u32 = 1_000_000;

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| match part.trim().parse::<u32>() {
            Ok(n) if n <= LONGEST => Ok(n),
            Ok(_) => Err(format!("lengths end at {LONGEST}")),
            Err(_) => Err(format!("`{part}` is not a whole number; write 128, 64..256 or 128~32")),
        };
        let lengths = if let Some((low, high)) = text.split_once("..") {
            Lengths::Uniform { low: number(low)?, high: number(high)? }
        } else if let Some((mean, deviation)) = text.split_once('~') {
            Lengths::Normal { mean: number(mean)?, deviation: number(deviation)? }
        } else {
            Lengths::Fixed(number(text)?)
        };
        match lengths {
            Lengths::Fixed(0) | Lengths::Uniform { low: 0, .. } | Lengths::Normal { mean: 0, .. } => {
                Err("a length must be at least 1".into())
            }
            Lengths::Uniform { low, high } if low > high => Err(format!("{low}..{high} is empty")),
            lengths => Ok(lengths),
        }
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lengths::Fixed(n) => write!(f, "{n}"),
            Lengths::Uniform { low, high } => write!(f, "{low}..{high}"),
            Lengths::Normal { mean, deviation } => write!(f, "{mean}~{deviation}"),
        }
    }
}

impl Serialize for Lengths {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Lengths {
    fn draw(self, random: &mut Random) -> u32 {
        match self {
            Lengths::Fixed(n) => n,
            Lengths::Uniform { low, high } => low + (random.unit() * f64::from(high - low + 1)) as u32,
            Lengths::Normal { mean, deviation } => {
                let x = f64::from(mean) + f64::from(deviation) * random.normal();
                (x.round() as u32).clamp(1, LONGEST)
            }
        }
    }
}

/// One request to send.
#[derive(Debug, PartialEq)]
pub(crate) struct Planned {
    pub(crate) prompt: String,
    pub(crate) max_tokens: u32,
}

impl Workload {
    /// Request number `index`.
    pub(crate) fn request(&self, index: usize) -> Planned {
        let mut random = Random::new(self.seed, index as u64 + 1);
        let mut prompt = String::new();
        append_words(&mut prompt, self.shared_prefix, &mut Random::new(self.seed, PREFIX_STREAM));
        append_words(&mut prompt, self.prompt_words.draw(&mut random) as usize, &mut random);
        Planned { prompt, max_tokens: self.output_tokens.draw(&mut random) }
    }

    /// The request as a chat completion body.
    pub(crate) fn body(&self, model: &str, planned: &Planned) -> Value {
        let mut body = json!({
            "model": model,
            "messages": [{"role": "user", "content": planned.prompt}],
            "max_tokens": planned.max_tokens,
            "temperature": 0,
        });
        if self.ignore_eos {
            body["ignore_eos"] = true.into();
        }
        body
    }

    /// When each request of an open loop is due, from the start; endless.
    pub(crate) fn arrivals(&self, rate: f64) -> impl Iterator<Item = Duration> + use<> {
        let mut random = Random::new(self.seed, ARRIVAL_STREAM);
        let mut at = 0.0;
        std::iter::from_fn(move || {
            let due = Duration::try_from_secs_f64(at).ok();
            // `1 - unit()` is in (0, 1], so the logarithm is finite.
            at += -(1.0 - random.unit()).ln() / rate;
            due
        })
    }
}

const PREFIX_STREAM: u64 = u64::MAX;
const ARRIVAL_STREAM: u64 = u64::MAX - 1;

/// Common English words: byte-pair vocabularies hold nearly all of them as one token with their space.
const WORDS: [&str; 64] = [
    "the", "and", "that", "have", "with", "this", "from", "they", "will", "would", "there", "their", "what",
    "about", "which", "when", "make", "like", "time", "just", "know", "take", "people", "into", "year",
    "your", "good", "some", "could", "them", "other", "than", "then", "look", "only", "come", "over",
    "think", "also", "back", "after", "work", "first", "well", "even", "want", "because", "these", "give",
    "most", "water", "house", "world", "school", "river", "music", "north", "paper", "green", "light",
    "story", "point", "small", "large",
];

fn append_words(text: &mut String, count: usize, random: &mut Random) {
    for _ in 0..count {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(WORDS[(random.next() % WORDS.len() as u64) as usize]);
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, good enough for load.
struct Random(u64);

impl Random {
    /// An independent sequence for each `(seed, stream)`.
    fn new(seed: u64, stream: u64) -> Random {
        let mut mixer = Random(seed);
        let start = mixer.next();
        Random(start ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

fn as_seconds<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|d| d.as_secs_f64()).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(seed: u64) -> Workload {
        Workload {
            pace: Pace::Open { rate: 50.0 },
            requests: None,
            duration: None,
            prompt_words: Lengths::Normal { mean: 40, deviation: 10 },
            output_tokens: Lengths::Uniform { low: 3, high: 5 },
            shared_prefix: 7,
            ignore_eos: true,
            seed,
        }
    }

    #[test]
    fn the_same_seed_asks_the_same_at_the_same_times() {
        let (a, b, c) = (workload(1), workload(1), workload(2));
        assert_eq!(a.request(5), b.request(5));
        assert_ne!(a.request(5), c.request(5));
        assert_ne!(a.request(5).prompt, a.request(6).prompt);
        let times = |w: &Workload| w.arrivals(50.0).take(20).collect::<Vec<_>>();
        assert_eq!(times(&a), times(&b));
        assert_ne!(times(&a), times(&c));
    }

    #[test]
    fn all_prompts_begin_with_the_shared_prefix() {
        let w = workload(3);
        let prefix: Vec<String> =
            (0..20).map(|i| w.request(i).prompt.split(' ').take(7).collect::<Vec<_>>().join(" ")).collect();
        assert!(prefix.iter().all(|p| *p == prefix[0]));
    }

    #[test]
    fn arrivals_come_at_the_given_rate() {
        let last = workload(4).arrivals(50.0).nth(5000).unwrap().as_secs_f64();
        assert!((95.0..105.0).contains(&last), "5000 arrivals at 50/s took {last} s");
    }

    #[test]
    fn drawn_lengths_have_their_distribution() {
        let mut random = Random::new(9, 0);
        let mut mean = |lengths: Lengths| {
            (0..10_000).map(|_| f64::from(lengths.draw(&mut random))).sum::<f64>() / 10_000.0
        };
        assert!((99.0..101.0).contains(&mean("100~20".parse().unwrap())));
        assert!((14.8..15.2).contains(&mean("10..20".parse().unwrap())));
        let mut random = Random::new(9, 1);
        assert!((0..1000).all(|_| (2..=4).contains(&Lengths::Uniform { low: 2, high: 4 }.draw(&mut random))));
    }

    #[test]
    fn lengths_that_make_no_sense_are_refused() {
        for text in ["", "x", "0", "5..2", "0..4", "-3", "1e3", "4294967295", "1..2..3"] {
            assert!(text.parse::<Lengths>().is_err(), "{text}");
        }
    }
}
