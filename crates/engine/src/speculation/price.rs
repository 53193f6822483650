//! Decides what a guessed token costs, from how long steps took with guesses and without.
//!
//! The price is in tokens: what the row of a guess adds to a step, as a share of what the step would take without guesses for
//! each of its streams. Reading the weights costs the same for few rows and many, so the price is low for one stream and
//! near one for many; what it is exactly depends on the machine, the model and the kernels, and is measured as steps go by.

/// With this many decoding streams weights are read for many rows anyway, and nothing is guessed.
const CROWD: usize = 8;
/// The price before anything was measured, for one stream: a row's share of the time of a step of one row. Seen on two Zen
/// 3 cores with SmolLM2-135M in Q4_1: 8.5 ms with one row, 10.1 with two, 14.7 with four, 25.8 with eight.
const ROW: f64 = 0.29;
/// Steps that what is known of steps without guesses reaches back.
const PLAIN_STEPS: f64 = 16.0;
/// Rows of guesses that a price reaches back: single steps may be twice as long for reasons of their own.
const ROWS: f64 = 64.0;
/// Prices are taken to lie between these: nothing is free, and at 1 even a sure guess gains nothing.
const CHEAPEST: f64 = 0.02;
const DEAREST: f64 = 1.0;

/// Prices by number of streams, of one backend.
#[derive(Clone, Debug)]
pub(crate) struct Prices {
    /// Index: streams less one.
    entries: [Entry; CROWD - 1],
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Seconds of a step without guesses, when one was seen.
    plain: Option<f64>,
    price: f64,
}

impl Prices {
    /// Nothing is measured yet.
    pub(crate) fn new() -> Self {
        let entry = |index: usize| {
            let streams = (index + 1) as f64;
            Entry { plain: None, price: ROW / (ROW + (1.0 - ROW) / streams) }
        };
        Prices { entries: std::array::from_fn(entry) }
    }

    /// The price of a guessed token where `streams` sequences decode; `None` where nothing should be guessed.
    pub(crate) fn of(&self, streams: usize) -> Option<f64> {
        self.entries.get(streams.checked_sub(1)?).map(|entry| entry.price)
    }

    /// A step that computed one token of each of `streams` sequences and `guessed` further ones took so long.
    pub(crate) fn observe(&mut self, streams: usize, guessed: usize, seconds: f64) {
        let Some(entry) = streams.checked_sub(1).and_then(|index| self.entries.get_mut(index)) else {
            return;
        };
        match (guessed, entry.plain) {
            (0, None) => entry.plain = Some(seconds),
            // A step that another process held up counts as one of twice the time.
            (0, Some(plain)) => entry.plain = Some(plain + (seconds.min(2.0 * plain) - plain) / PLAIN_STEPS),
            (_, None) => {}
            (guessed, Some(plain)) => {
                let rows = guessed as f64;
                let seen = (seconds - plain) / rows / (plain / streams as f64);
                let weight = (rows / ROWS).min(0.25);
                entry.price += weight * (seen.clamp(CHEAPEST, DEAREST) - entry.price);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prices after many steps on a machine that reads weights in `weights` seconds and computes a row in `row`.
    fn measured(streams: usize, weights: f64, row: f64) -> f64 {
        let mut prices = Prices::new();
        for step in 0..200 {
            let guessed = step % 4;
            let mut seconds = weights + row * (streams + guessed) as f64;
            if step % 50 == 7 {
                seconds *= 10.0;
            }
            prices.observe(streams, guessed, seconds);
        }
        prices.of(streams).unwrap()
    }

    #[test]
    fn a_price_is_what_a_row_adds_for_each_stream() {
        for (streams, weights, row) in [(1, 6.0, 2.5), (3, 6.0, 2.5), (1, 100.0, 4.0), (2, 1.0, 9.0)] {
            let expected = row / (row + weights / streams as f64);
            let found = measured(streams, weights, row);
            assert!((found - expected).abs() < 0.12, "{streams} {weights} {row}: {found}, not {expected}");
        }
    }

    #[test]
    fn prices_rise_with_streams_until_nothing_is_guessed() {
        let prices = Prices::new();
        let listed: Vec<f64> = (1..CROWD).map(|streams| prices.of(streams).unwrap()).collect();
        assert!(listed.is_sorted() && listed[0] == ROW && listed[CROWD - 2] < 1.0, "{listed:?}");
        assert_eq!((prices.of(0), prices.of(CROWD), prices.of(1000)), (None, None, None));
    }
}
