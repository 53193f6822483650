//! Decides which tokens a sequence is guessed to go on with, so that one step can compute several of its tokens.
//!
//! A guess never changes an answer: every position is drawn by the ordinary sampler from the logits that the model gives
//! after the tokens before it, with the position's own random number, and a guessed token stays only where the draw equals
//! it. What a wrong guess costs is time, and [`Speculation::Auto`] watches that.

mod ngram;
mod pace;

use ngram::NgramIndex;
use pace::Pace;

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
    pace: Pace,
    /// Of the latest guess.
    streams: usize,
}

impl Drafter {
    pub(crate) fn new(mode: Speculation) -> Self {
        Drafter { mode, index: NgramIndex::new(), pace: Pace::new(), streams: 1 }
    }

    /// Guesses at most `room` tokens to follow `tokens`, prompt and answer so far, in a step that decodes `streams`
    /// sequences. Asked once per step that decodes this one.
    pub(crate) fn guess(&mut self, tokens: &[u32], streams: usize, room: usize) -> Vec<u32> {
        let most = match self.mode {
            Speculation::Off => 0,
            Speculation::Auto => self.pace.allow(streams),
            Speculation::UpTo(most) => most.min(MOST_GUESSED),
        }
        .min(room);
        self.streams = streams;
        if most == 0 { Vec::new() } else { self.index.guess(tokens, most) }
    }

    /// Of the `guessed` tokens that were computed, at least one, the first `right` were right.
    pub(crate) fn judge(&mut self, guessed: usize, right: usize) {
        self.pace.judge(guessed, right, self.streams);
    }
}
