//! Decides how many tokens of a sequence are worth guessing, from what became of its earlier guesses and from what a row
//! costs at the current number of streams.
//!
//! All costs are in tokens: what a step yields for one stream in its time. A guess of `k` tokens, each right with
//! probability `p` if those before it are, yields `p + p^2 + … + p^k` tokens and costs `k` times the price of a row, so the
//! `k`-th is worth having while `p^k` exceeds the price. Where not even the first is, one token is tried now and then, at
//! intervals that double until trials that all fail cost [`LOSS`] of the time.

/// What one more row adds to a step of one row, as a share of the time of a step of two; the rest reads the weights and
/// costs the same for few rows and many. Measured on two Zen 3 cores with SmolLM2-135M in Q4_1: 8.5 ms with one row, 10.1
/// with two, 14.7 with four, 25.8 with eight. Where memory is slower beside the cores it is less, and more could be guessed.
const ROW: f64 = 0.29;
/// With this many decoding streams weights are read for many rows anyway, and nothing is guessed.
const CROWD: usize = 8;
/// Most tokens of a guess, over all streams.
const MOST: usize = 8;
/// Belief before the first guess: one token is tried.
const PRIOR: f64 = 0.5;
/// How far one verdict moves the belief.
const WEIGHT: f64 = 0.2;
/// Where failures stop to move it, so that the trial that succeeds counts.
const DOUBT: f64 = 0.25;
/// Share of the time that trials may lose.
const LOSS: f64 = 0.01;
/// Steps between the first two trials.
const FIRST_PAUSE: u32 = 4;

/// What one sequence's guesses have been worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pace {
    /// Believed probability that a guessed token is right if those before it are.
    belief: f64,
    /// Trials that failed in a row.
    failures: u32,
    /// Steps until the next trial.
    pause: u32,
}

impl Pace {
    /// Nothing has been guessed.
    pub(crate) fn new() -> Self {
        Pace { belief: PRIOR, failures: 0, pause: 0 }
    }

    /// Most tokens to guess in this step, in which `streams` sequences decode. Asked once per step.
    pub(crate) fn allow(&mut self, streams: usize) -> usize {
        if streams >= CROWD {
            return 0;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        self.worth(streams).max(1)
    }

    /// Of `guessed` tokens, at least one, the first `right` were right.
    pub(crate) fn judge(&mut self, guessed: usize, right: usize, streams: usize) {
        for _ in 0..right {
            self.belief += WEIGHT * (1.0 - self.belief);
        }
        if right < guessed {
            self.belief = (self.belief - WEIGHT * self.belief).max(DOUBT);
        }
        if right > 0 {
            self.failures = 0;
        }
        if self.worth(streams) == 0 {
            let longest = (price(streams) / LOSS) as u32;
            self.pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(longest);
            self.failures += 1;
        }
    }

    /// The largest `k` with `belief^k` above the price of a row.
    fn worth(&self, streams: usize) -> usize {
        let most = MOST / streams.max(1);
        let price = price(streams);
        let mut chance = self.belief;
        let mut worth = 0;
        while worth < most && chance > price {
            worth += 1;
            chance *= self.belief;
        }
        worth
    }
}

/// What a row costs beside `streams` others, in tokens.
fn price(streams: usize) -> f64 {
    ROW / (ROW + (1.0 - ROW) / streams.max(1) as f64)
}
