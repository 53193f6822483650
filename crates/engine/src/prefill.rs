//! Decides how many prompt tokens a step may have, so that running streams keep getting tokens while long prompts arrive.
//!
//! A step with `n` prompt tokens, the first at position `s`, beside streams that decode takes about
//!
//! ```text
//! decode(streams) + n · (token + pair · (s + n / 2))
//! ```
//!
//! seconds: what the streams take alone, and for every prompt token its products with the weights and its attention over the
//! positions before it. All three are learnt from the steps that ran. The times of steps with streams alone give the first;
//! what other steps took beyond it moves `token` and `pair` a share of the way to explaining it (normalised least mean squares).
//! With true costs that stay as they are, such a move never leads away from them, and neither does cutting it short, which is
//! what is done to a step that took far more or less than expected. Where `decode` is wrong, what it misses goes into `token`, so
//! that steps come to take their target all the same.
//!
//! No clock in here: seconds come in with the steps.

use std::time::Duration;

/// Rows of a kernel's tile: fewer prompt tokens cost as much, so a step that takes any takes this many.
pub(crate) const TILE: usize = 16;
/// Where nothing is known of attention, it is taken to cost as much as the weights at this many positions.
const EVEN: f64 = 4096.0;
/// Share of the way to what a step has shown.
const RATE: f64 = 0.3;
/// A step that another process held up counts as one that took so many times what was expected.
const SPIKE: f64 = 2.0;
/// Where streams alone take nearly the target or more, prompts still get this share of what they take.
const LEAST: f64 = 0.25;
/// A prompt token costs no less, so that a step can always show that it costs more.
const CHEAPEST: f64 = 1e-7;

/// What a step had to compute, as far as its time depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load {
    /// Sequences that decode.
    pub(crate) streams: usize,
    /// Prompt tokens.
    pub(crate) tokens: usize,
    /// Positions that those tokens look at, in all.
    pub(crate) pairs: f64,
}

impl Load {
    /// Adds a chunk of a prompt.
    pub(crate) fn add_chunk(&mut self, start: usize, tokens: usize) {
        self.tokens += tokens;
        self.pairs += tokens as f64 * (start as f64 + tokens as f64 / 2.0);
    }
}

/// What steps cost on one backend.
#[derive(Clone, Debug)]
pub(crate) struct StepCosts {
    /// Seconds that a step with streams should take at most; `None` where nobody cares.
    target: Option<f64>,
    /// Seconds of a step that only decodes. Index: streams less one.
    decode: Vec<Option<f64>>,
    /// Costs of a prompt token, when one was seen.
    prompt: Option<PromptCosts>,
}

/// Seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct PromptCosts {
    /// Of a prompt token without attention.
    token: f64,
    /// Of a position that a prompt token looks at.
    pair: f64,
}

impl StepCosts {
    /// Nothing is known yet.
    pub(crate) fn new(target: Option<Duration>) -> Self {
        StepCosts { target: target.map(|target| target.as_secs_f64()), decode: Vec::new(), prompt: None }
    }

    /// What prompts may take of the next step, in which `streams` sequences decode; `None` where only fixed bounds count.
    pub(crate) fn allowance(&self, streams: usize) -> Option<Allowance> {
        let target = self.target.filter(|_| streams > 0)?;
        let decode = self.decode(streams);
        let seconds = (target - decode).max(decode * LEAST);
        // The first chunk is as small as can be: it is what the next one is sized by.
        let prompt = self.prompt.unwrap_or(PromptCosts { token: f64::INFINITY, pair: 0.0 });
        Some(Allowance { seconds, prompt, untouched: true })
    }

    /// A step took so long.
    pub(crate) fn observe(&mut self, load: &Load, seconds: f64) {
        let Load { streams, tokens, pairs } = *load;
        if tokens == 0 {
            self.observe_decode(streams, seconds);
        } else if tokens >= TILE / 2 {
            // Fewer tokens say more about everything else in the step.
            self.observe_prompt(streams, tokens as f64, pairs, seconds);
        }
    }

    fn observe_decode(&mut self, streams: usize, seconds: f64) {
        let Some(index) = streams.checked_sub(1) else { return };
        if self.decode.len() < streams {
            self.decode.resize(streams, None);
        }
        let known = &mut self.decode[index];
        *known = Some(known.map_or(seconds, |known| known + RATE * (seconds.min(SPIKE * known) - known)));
    }

    fn observe_prompt(&mut self, streams: usize, tokens: f64, pairs: f64, seconds: f64) {
        let context = pairs / tokens;
        let Some(PromptCosts { token, pair }) = self.prompt else {
            let token = (seconds / tokens / (1.0 + context / EVEN)).max(CHEAPEST);
            self.prompt = Some(PromptCosts { token, pair: token / EVEN });
            return;
        };
        let expected = token + pair * context;
        let seen = (seconds - self.decode(streams)) / tokens;
        let missing = seen.clamp(expected / SPIKE, expected * SPIKE) - expected;
        // Positions in units of `EVEN`, so that both costs have the same unit and size.
        let at = context / EVEN;
        let step = RATE * missing / (1.0 + at * at);
        self.prompt = Some(PromptCosts {
            token: (token + step).max(CHEAPEST),
            pair: (pair + step * at / EVEN).max(0.0),
        });
    }

    /// What so many streams take alone, or fewer where so many were not seen. Too little is safe: prompt tokens then seem
    /// dearer than they are.
    fn decode(&self, streams: usize) -> f64 {
        let seen = &self.decode[..streams.min(self.decode.len())];
        seen.iter().rev().flatten().next().copied().unwrap_or(0.0)
    }
}

/// Time that the prompts of one step share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Allowance {
    seconds: f64,
    prompt: PromptCosts,
    /// No prompt has taken anything.
    untouched: bool,
}

impl Allowance {
    /// How many of the next `most` tokens of a prompt may join the step, after the `start` before them: all, or whole tiles. A
    /// tile may always join: a prompt advances in every step.
    pub(crate) fn fit(&self, start: usize, most: usize) -> usize {
        let PromptCosts { token, pair } = self.prompt;
        // The positive root of `pair / 2 · n² + linear · n = seconds`, in the form that also holds where `pair` is 0.
        let linear = token + pair * start as f64;
        let fitting = 2.0 * self.seconds / (linear + (linear * linear + 2.0 * pair * self.seconds).sqrt());
        if fitting >= most as f64 {
            return most;
        }
        let tiles = fitting as usize / TILE;
        let least = usize::from(self.untouched);
        (tiles.max(least) * TILE).min(most)
    }

    /// Takes the time of a chunk.
    pub(crate) fn spend(&mut self, start: usize, tokens: usize) {
        let PromptCosts { token, pair } = self.prompt;
        let tokens = tokens as f64;
        self.seconds = (self.seconds - tokens * (token + pair * (start as f64 + tokens / 2.0))).max(0.0);
        self.untouched = false;
    }
}

/// What is left for the prompts of a step.
pub(crate) struct Budget {
    pub(crate) tokens: usize,
    pub(crate) allowance: Option<Allowance>,
}

impl Budget {
    /// How many of a prompt's next `pending` tokens, after the `start` before them, the step has room for.
    pub(crate) fn fit(&self, start: usize, pending: usize) -> usize {
        let most = pending.min(self.tokens);
        self.allowance.as_ref().map_or(most, |allowance| allowance.fit(start, most))
    }

    pub(crate) fn spend(&mut self, start: usize, tokens: usize) {
        self.tokens -= tokens;
        if let Some(allowance) = &mut self.allowance {
            allowance.spend(start, tokens);
        }
    }
}

/// A step that takes longer than this delays aborts and looks like a stall to a health check, also where no stream waits.
const LONG_STEP: Duration = Duration::from_secs(4);

/// Prompt tokens that any step may have, after one of `tokens` tokens `took` so long: halved when it was long, doubled
/// again when it was short and full.
pub(crate) fn limit(limit: usize, most: usize, tokens: usize, took: Duration) -> usize {
    if took > LONG_STEP {
        (limit.min(tokens) / 2).max(1)
    } else if took < LONG_STEP / 4 && tokens >= limit {
        (limit * 2).min(most)
    } else {
        limit
    }
}

#[cfg(test)]
mod tests;
