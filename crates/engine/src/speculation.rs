//! Decides which tokens a sequence is guessed to go on with, so that one step can compute several of its tokens.
//!
//! A guess never changes an answer: every position is drawn by the ordinary sampler from the logits that the model gives
//! after the tokens before it, with the position's own random number, and a guessed token stays only where the draw equals
//! it. What a wrong guess costs is time, and [`Speculation::Auto`] watches that.

mod ngram;
mod pace;
mod price;

use ngram::{LENGTHS, NgramIndex};
use pace::Pace;
pub(crate) use price::Prices;

/// Most tokens that may be guessed for a sequence in a step.
pub const MOST_GUESSED: usize = 16;

/// When tokens are guessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speculation {
    /// As many as were worth it lately, none among many streams.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Up to this many, at most [`MOST_GUESSED`], in every step and whatever came of it.
    UpTo(usize),
}

/// Guesses for one sequence.
#[derive(Clone, Debug)]
pub(crate) struct Drafter {
    mode: Speculation,
    index: NgramIndex,
    /// By kind of match: a longer one foretells more.
    paces: [Pace; LENGTHS],
    /// Kind and price of the guess that is being computed.
    latest: Option<(usize, f64)>,
}

impl Drafter {
    pub(crate) fn new(mode: Speculation) -> Self {
        Drafter { mode, index: NgramIndex::new(), paces: [Pace::new(); LENGTHS], latest: None }
    }

    /// Guesses at most `room` tokens to follow `tokens`, prompt and answer so far, in a step that decodes `streams`
    /// sequences. Asked once per step that decodes this one.
    pub(crate) fn guess(&mut self, tokens: &[u32], streams: usize, prices: &Prices, room: usize) -> Vec<u32> {
        match self.mode {
            Speculation::Off => Vec::new(),
            Speculation::UpTo(most) => match self.index.find(tokens) {
                Some(found) => found.guess(tokens, most.min(MOST_GUESSED).min(room)),
                None => Vec::new(),
            },
            Speculation::Auto => self.guess_if_worth(tokens, streams, prices, room).unwrap_or_default(),
        }
    }

    fn guess_if_worth(
        &mut self,
        tokens: &[u32],
        streams: usize,
        prices: &Prices,
        room: usize,
    ) -> Option<Vec<u32>> {
        let price = prices.of(streams)?;
        let found = self.index.find(tokens)?;
        let most = self.paces[found.kind()].allow(streams, price);
        self.latest = Some((found.kind(), price));
        Some(found.guess(tokens, most.min(room)))
    }

    /// Of the `guessed` tokens of the latest guess that were computed, at least one, the first `right` were right.
    pub(crate) fn judge(&mut self, guessed: usize, right: usize) {
        if let Some((kind, price)) = self.latest {
            self.paces[kind].judge(guessed, right, price);
        }
    }
}
