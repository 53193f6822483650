//! What one step computes, as the scheduler has decided it.

use crate::handle::RequestId;
use crate::prefill::Load;

/// Tokens of one request to compute in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Whose.
    pub id: RequestId,
    /// Tokens before these.
    pub start: usize,
    /// How many, from the first that is not computed, guessed ones included.
    pub tokens: usize,
    /// This computes the request's last token, so the next one can be sampled.
    pub samples: bool,
    /// How many of `tokens` are guessed; they are the last ones.
    pub guessed: usize,
}

impl Work {
    /// This computes what follows the request's last token, with guesses or without.
    pub fn decodes(&self) -> bool {
        self.samples && self.tokens == 1 + self.guessed
    }

    /// Rows of logits that this yields.
    pub fn rows(&self) -> usize {
        if self.samples { 1 + self.guessed } else { 0 }
    }
}

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order of arrival.
    pub work: Vec<Work>,
    /// Requests that left the waiting queue, with the prompt tokens they found in the cache.
    pub admitted: Vec<(RequestId, usize)>,
    /// Requests that lost their blocks and wait again.
    pub preempted: Vec<RequestId>,
}

impl Plan {
    /// Tokens of the step.
    pub fn tokens(&self) -> usize {
        self.work.iter().map(|work| work.tokens).sum()
    }

    /// Requests that compute what follows their last token.
    pub fn decoding(&self) -> usize {
        self.work.iter().filter(|work| work.decodes()).count()
    }

    /// What the step's time depends on.
    pub(crate) fn load(&self) -> Load {
        let mut load = Load { streams: self.decoding(), ..Load::default() };
        for work in self.work.iter().filter(|work| !work.decodes()) {
            load.add_chunk(work.start, work.tokens);
        }
        load
    }
}
