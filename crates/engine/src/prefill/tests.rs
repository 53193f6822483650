//! Machines as three numbers, and what chunks become on them.

use super::*;

/// A machine on which costs are what they are.
#[derive(Clone, Copy)]
struct Machine {
    /// Milliseconds of a step, of a row in it, and of a thousand positions that a row looks at.
    step: f64,
    row: f64,
    thousand: f64,
}

const FAST: Machine = Machine { step: 5.0, row: 0.1, thousand: 0.02 };
const MIDDLE: Machine = Machine { step: 8.0, row: 0.4, thousand: 0.1 };
const SLOW: Machine = Machine { step: 30.0, row: 2.0, thousand: 0.5 };
/// Streams alone take longer than any target.
const HOPELESS: Machine = Machine { step: 200.0, row: 5.0, thousand: 1.0 };

const MOST: usize = 256;
const TARGET: Option<Duration> = Some(Duration::from_millis(50));

impl Machine {
    fn seconds(&self, load: &Load) -> f64 {
        (self.step + self.row * (load.streams + load.tokens) as f64 + self.thousand * load.pairs / 1000.0)
            / 1000.0
    }
}

/// One engine: two streams, and a prompt of which chunks are computed at a given position.
struct Play {
    costs: StepCosts,
    machine: Machine,
    streams: usize,
}

impl Play {
    /// Streams have decoded for a while, and one prompt has been seen.
    fn new(machine: Machine) -> Play {
        let mut play = Play { costs: StepCosts::new(TARGET), machine, streams: 2 };
        play.costs.observe(&load(0, 0, 40), machine.seconds(&load(0, 0, 40)));
        play.decode(10);
        play
    }

    fn decode(&mut self, steps: usize) {
        for _ in 0..steps {
            let load = load(self.streams, 0, 0);
            self.costs.observe(&load, self.machine.seconds(&load));
        }
    }

    fn fit(&self, start: usize) -> usize {
        self.costs.allowance(self.streams).expect("there is a target").fit(start, MOST)
    }

    /// A step with a chunk at `start` that takes `times` as long as it should; its tokens and milliseconds.
    fn chunk(&mut self, start: usize, times: f64) -> (usize, f64) {
        let tokens = self.fit(start);
        let load = load(self.streams, start, tokens);
        let seconds = self.machine.seconds(&load) * times;
        self.costs.observe(&load, seconds);
        (tokens, seconds * 1000.0)
    }

    /// The last of many chunks at `start`.
    fn settle(&mut self, start: usize) -> (usize, f64) {
        (0..60).map(|_| self.chunk(start, 1.0)).last().expect("there are chunks")
    }
}

fn load(streams: usize, start: usize, tokens: usize) -> Load {
    let mut load = Load { streams, ..Load::default() };
    load.add_chunk(start, tokens);
    load
}

/// The most tokens, in tiles, that a step at `start` has time for.
fn ideal(machine: Machine, start: usize) -> usize {
    let fits = |tiles: &usize| machine.seconds(&load(2, start, tiles * TILE)) <= 0.050;
    (1..=MOST / TILE).take_while(fits).last().unwrap_or(1) * TILE
}

#[test]
fn chunks_become_as_long_as_the_target_allows_and_no_longer() {
    let mut found = Vec::new();
    for machine in [FAST, MIDDLE, SLOW] {
        for start in [0, 1000, 4000] {
            let (tokens, milliseconds) = Play::new(machine).settle(start);
            assert!(
                tokens.abs_diff(ideal(machine, start)) <= TILE,
                "{tokens}, not {}",
                ideal(machine, start)
            );
            assert!(milliseconds < 50.5 || tokens == TILE, "{milliseconds} ms");
            found.push(tokens);
        }
    }
    assert_eq!(
        found,
        [MOST, MOST, 240, 96, 80, 48, 16, 16, 16],
        "fast, middle, slow; short and long contexts"
    );
}

#[test]
fn one_prompt_is_enough_to_learn_what_contexts_cost() {
    let mut play = Play::new(MIDDLE);
    let mut start = 0;
    let mut longest: f64 = 0.0;
    while start < 4000 {
        let (tokens, milliseconds) = play.chunk(start, 1.0);
        longest = longest.max(milliseconds);
        start += tokens;
    }
    assert!(longest < 55.0, "{longest} ms");
    let lengths = [0, 1000, 2000, 4000].map(|start| play.fit(start));
    assert!(lengths.is_sorted_by(|a, b| a > b), "{lengths:?}");
}

#[test]
fn a_spike_is_forgotten_in_a_few_steps() {
    let mut play = Play::new(MIDDLE);
    let (before, _) = play.settle(500);
    play.chunk(500, 20.0);
    let after: Vec<usize> = (0..5).map(|_| play.chunk(500, 1.0).0).collect();
    assert!(after[0] >= before / 2, "{after:?} after {before}");
    assert!(after[4] >= before - TILE, "{after:?} after {before}");
}

#[test]
fn noise_leaves_chunks_about_as_they_are() {
    let mut play = Play::new(MIDDLE);
    let (before, _) = play.settle(500);
    for step in 0..500 {
        let (tokens, _) = play.chunk(500, [1.0, 1.15, 0.9, 1.0, 1.6, 0.95][step * step % 6]);
        assert!((before / 2..=before + 2 * TILE).contains(&tokens), "{tokens} after {before}");
    }
}

#[test]
fn a_machine_that_slows_down_and_recovers_is_followed() {
    let mut play = Play::new(MIDDLE);
    let (before, _) = play.settle(500);
    play.machine = Machine { step: 16.0, row: 0.8, thousand: 0.2 };
    play.decode(10);
    let slowing: Vec<f64> = (0..6).map(|_| play.chunk(500, 1.0).1).collect();
    assert!(slowing[0] > 75.0 && slowing[5] < 51.0, "{slowing:?} ms");
    play.machine = MIDDLE;
    play.decode(10);
    assert_eq!(play.settle(500).0, before);
}

#[test]
fn prompts_advance_even_where_streams_alone_miss_the_target() {
    let (tokens, milliseconds) = Play::new(HOPELESS).settle(100);
    assert_eq!(tokens, TILE);
    assert!(milliseconds < 300.0);
    // Streams take 205 ms; a quarter of that buys more than a tile of cheap tokens.
    let (tokens, milliseconds) = Play::new(Machine { row: 0.5, ..HOPELESS }).settle(0);
    assert!(tokens >= 5 * TILE && milliseconds < 205.0 * 1.26, "{tokens} tokens, {milliseconds} ms");
}

#[test]
fn wrong_beliefs_about_streams_do_not_keep_steps_from_their_target() {
    // Seen with one stream only, and while it took a fifth of what eight take.
    let mut play = Play::new(MIDDLE);
    play.streams = 8;
    play.machine.step = 30.0;
    let (tokens, milliseconds) = play.settle(200);
    assert!(tokens > TILE && (40.0..51.0).contains(&milliseconds), "{tokens} tokens, {milliseconds} ms");
    // Seen while the machine was busy with something else.
    let mut play = Play::new(Machine { step: 35.0, ..MIDDLE });
    play.machine = MIDDLE;
    let (tokens, milliseconds) = play.settle(200);
    assert!(tokens > TILE && (40.0..51.0).contains(&milliseconds), "{tokens} tokens, {milliseconds} ms");
}

#[test]
fn every_step_takes_a_tile_and_no_step_more_than_there_is() {
    let costs = PromptCosts { token: 1e-3, pair: 1e-6 };
    let allowance = |seconds| Allowance { seconds, prompt: costs, untouched: true };
    for (seconds, start, most, expected) in [
        (0.0, 0, 256, 16),
        (0.0, 0, 5, 5),
        (0.050, 0, 256, 48),
        (0.050, 0, 49, 48),
        (0.050, 0, 20, 20),
        (0.050, 1000, 256, 16),
        (0.100, 1000, 256, 48),
        (1e9, 0, 256, 256),
    ] {
        assert_eq!(allowance(seconds).fit(start, most), expected, "{seconds} s, {most} tokens from {start}");
    }
    let mut shared = allowance(0.050);
    shared.spend(0, 30);
    assert_eq!((shared.fit(0, 256), shared.fit(0, 10)), (16, 10));
    shared.spend(0, 16);
    assert_eq!(shared.fit(0, 256), 0, "the second prompt of a step has no right to a tile");
}

#[test]
fn before_anything_is_known_a_chunk_is_one_tile() {
    let costs = StepCosts::new(TARGET);
    assert_eq!(costs.allowance(1).map(|allowance| allowance.fit(0, MOST)), Some(TILE));
    assert_eq!(costs.allowance(0), None, "nobody waits for a token");
    assert_eq!(StepCosts::new(None).allowance(3), None);
}

#[test]
fn long_steps_halve_the_prompt_tokens_of_the_next_and_short_ones_bring_them_back() {
    let seconds = Duration::from_secs;
    assert_eq!(limit(512, 512, 512, seconds(5)), 256);
    assert_eq!(limit(512, 512, 100, seconds(9)), 50, "a step need not have been full to be long");
    assert_eq!(limit(1, 512, 1, seconds(9)), 1);
    assert_eq!(limit(256, 512, 256, seconds(2)), 256);
    assert_eq!(limit(256, 512, 256, Duration::from_millis(500)), 512);
    assert_eq!(limit(512, 512, 512, Duration::ZERO), 512);
    assert_eq!(limit(256, 512, 3, Duration::ZERO), 256, "a small step says nothing about large ones");
}
