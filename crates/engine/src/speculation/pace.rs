//! Decides how many tokens of a sequence are worth guessing, from what became of its earlier guesses and from the price of
//! a guessed token.
//!
//! A guess of `k` tokens, each right with probability `p` if those before it are, yields `p + p^2 + … + p^k` tokens, so the
//! `k`-th is worth having while `p^k` exceeds its price. Where not even the first is, one token is tried now and then, after
//! pauses that double until trials that all fail lose no more than [`LOSS`] of the time.

/// Most tokens of a guess.
const MOST: usize = 8;
/// Most guessed tokens of a step, over all streams, while each may guess one.
const MOST_IN_STEP: usize = 16;
/// Belief before the first guess: for one stream it is worth a token.
const PRIOR: f64 = 0.5;
/// How far one verdict moves the belief.
const WEIGHT: f64 = 0.2;
/// Where failures stop to move it, so that a trial that succeeds counts; or at nine tenths of the price.
const DOUBT: f64 = 0.25;
/// Share of the time that trials may lose.
const LOSS: f64 = 0.01;
/// Share of the time until the second trial that the first one may lose.
const FIRST_LOSS: f64 = 0.1;

/// What guesses of one kind have been worth to one sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pace {
    /// Believed probability that a guessed token is right if those before it are.
    belief: f64,
    /// Trials that failed in a row.
    failures: u32,
    /// Chances to let go by until the next trial.
    pause: u32,
}

impl Pace {
    /// Nothing has been guessed.
    pub(crate) fn new() -> Self {
        Pace { belief: PRIOR, failures: 0, pause: 0 }
    }

    /// Most tokens to guess, in a step that decodes `streams` sequences and where a token has this price. Asked once for each
    /// chance to guess.
    pub(crate) fn allow(&mut self, streams: usize, price: f64) -> usize {
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        self.worth(price).min(MOST_IN_STEP / streams).max(1)
    }

    /// Of `guessed` tokens, at least one, the first `right` were right.
    pub(crate) fn judge(&mut self, guessed: usize, right: usize, price: f64) {
        for _ in 0..right {
            self.belief += WEIGHT * (1.0 - self.belief);
        }
        if right < guessed {
            self.belief = (self.belief - WEIGHT * self.belief).max(DOUBT.min(0.9 * price));
        }
        if right > 0 {
            self.failures = 0;
        }
        if self.worth(price) == 0 {
            let (first, longest) = ((price / FIRST_LOSS).ceil(), (price / LOSS).ceil());
            self.pause = (first * f64::from(self.failures).exp2()).min(longest) as u32;
            self.failures += 1;
        }
    }

    /// The largest `k` up to [`MOST`] with `belief^k` above the price.
    fn worth(&self, price: f64) -> usize {
        (1..=MOST as i32).take_while(|k| self.belief.powi(*k) > price).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guessed and right tokens over `chances`, where chance `i` has `truth(i)` right tokens in a row ahead.
    fn play(price: f64, streams: usize, chances: usize, truth: impl Fn(usize) -> usize) -> (usize, usize) {
        let mut pace = Pace::new();
        let mut total = (0, 0);
        for chance in 0..chances {
            let guessed = pace.allow(streams, price);
            if guessed > 0 {
                let right = truth(chance).min(guessed);
                pace.judge(guessed, right, price);
                total = (total.0 + guessed, total.1 + right);
            }
        }
        total
    }

    #[test]
    fn guesses_grow_while_they_are_right_up_to_a_share_of_the_most() {
        let mut pace = Pace::new();
        let mut lengths = Vec::new();
        for _ in 0..6 {
            lengths.push(pace.allow(1, 0.3));
            pace.judge(lengths[lengths.len() - 1], lengths[lengths.len() - 1], 0.3);
        }
        assert_eq!(lengths, [1, 2, 4, 8, 8, 8]);
        assert_eq!([1, 2, 3, 4, 7, 99].map(|streams| pace.allow(streams, 0.3)), [8, 8, 5, 4, 2, 1]);
    }

    #[test]
    fn wrong_guesses_are_repeated_after_ever_longer_pauses() {
        let mut pace = Pace::new();
        let mut tried = Vec::new();
        for chance in 0..120 {
            if pace.allow(1, 0.3) > 0 {
                tried.push(chance);
                pace.judge(1, 0, 0.3);
            }
        }
        assert_eq!(tried, [0, 1, 2, 6, 13, 26, 51, 82, 113]);
    }

    #[test]
    fn text_without_repetition_loses_less_than_two_percent() {
        for price in [0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0] {
            // At every single token something was found to guess, and it was wrong.
            let (guessed, right) = play(price, 1, 400, |_| 0);
            assert!(guessed > 0 && right == 0);
            let lost = guessed as f64 * price / 400.0;
            assert!(lost < 0.02, "{lost} at {price}");
        }
    }

    #[test]
    fn repetition_is_found_again_after_long_text_without() {
        let (guessed, right) = play(0.3, 1, 1100, |chance| if chance < 1000 { 0 } else { 8 });
        assert!(right > 8 * 50, "{right} of {guessed}");
    }
}
