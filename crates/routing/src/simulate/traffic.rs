//! Who asks what: conversations whose texts exist, so that the gateway's hashing and the engine's blocks see the same prefixes.
//!
//! A conversation begins with the instructions of its group, which all conversations of the group share; each turn adds a question and, once it
//! is answered, the answer. Conversations begin as a Poisson process; a turn comes a while after the answer before it, so a slow
//! service is asked less, as by people.

use std::sync::Arc;

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::engine::BLOCK_TOKENS;
use crate::Prompt;
use crate::prefix::{block_bytes, seed};

/// The kind of traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Traffic {
    /// Groups of conversations, such as tenants or applications; each has its own instructions.
    pub groups: u32,
    /// Share of all conversations that are of the first group; the others are spread evenly.
    pub hot: f64,
    /// Tokens of a group's instructions.
    pub shared_tokens: u32,
    /// Turns of a conversation, at least.
    pub min_turns: u32,
    /// Turns of a conversation, at most.
    pub max_turns: u32,
    /// Tokens of a question: the median.
    pub question_tokens: u32,
    /// Tokens of an answer: the median.
    pub answer_tokens: u32,
    /// How much lengths vary: the standard deviation of their logarithm.
    pub spread: f64,
    /// Seconds between an answer and the next turn, on average.
    pub gap_seconds: f64,
    /// Share of conversations that are one prompt with nothing in common with any other, as long as the others are on average.
    pub alone: f64,
    /// Conversations name their session.
    pub sessions: bool,
    /// Adapters; each group uses one. None if 0.
    pub adapters: u32,
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic {
            groups: 16,
            hot: 0.0,
            shared_tokens: 1000,
            min_turns: 4,
            max_turns: 12,
            question_tokens: 60,
            answer_tokens: 60,
            spread: 0.6,
            gap_seconds: 10.0,
            alone: 0.0,
            sessions: false,
            adapters: 0,
        }
    }
}

impl Traffic {
    /// The kinds that are compared, by name.
    pub fn named() -> [(&'static str, Traffic); 6] {
        let plain = Traffic::default;
        [
            ("conversations", plain()),
            ("independent", Traffic { alone: 1.0, ..plain() }),
            ("mixed", Traffic { alone: 0.5, ..plain() }),
            ("hot prefix", Traffic { hot: 0.5, min_turns: 1, max_turns: 1, ..plain() }),
            (
                "sessions",
                Traffic { sessions: true, groups: 1, shared_tokens: 0, question_tokens: 150, ..plain() },
            ),
            ("adapters", Traffic { adapters: 16, ..plain() }),
        ]
    }
}

/// A conversation, with everything that will be said.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    /// When it begins, in mean times between conversations.
    pub(super) begins: f64,
    pub(super) turns: Vec<Turn>,
    /// The whole text as the gateway sees it.
    text: Prompt,
    /// The whole text as the engine sees it.
    pub(super) blocks: Arc<[u64]>,
    pub(super) session: Option<u64>,
    pub(super) adapter: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) prompt: u32,
    pub(super) answer: u32,
    /// Bytes of the prompt.
    pub(super) bytes: usize,
    /// Seconds since the answer before.
    pub(super) gap: f64,
}

impl Conversation {
    /// The prompt of a text that ends after so many bytes.
    pub(super) fn prompt(&self, bytes: usize) -> Prompt {
        let mut covered = 0;
        let whole = (0..self.text.blocks.len())
            .take_while(|position| {
                covered += block_bytes(*position);
                covered <= bytes
            })
            .count();
        Prompt { blocks: self.text.blocks[..whole].to_vec(), bytes }
    }
}

/// Conversations with so many turns in all.
pub(super) fn conversations(traffic: &Traffic, random: u64, requests: usize) -> Vec<Conversation> {
    let mut rng = Rng::with_seed(random);
    let (mut all, mut turns, mut begins) = (Vec::new(), 0, 0.0);
    while turns < requests {
        let conversation = conversation(traffic, &mut rng, begins);
        turns += conversation.turns.len();
        begins += exponential(&mut rng);
        all.push(conversation);
    }
    all
}

fn conversation(traffic: &Traffic, rng: &mut Rng, begins: f64) -> Conversation {
    let alone = rng.f64() < traffic.alone;
    let groups = u64::from(traffic.groups.max(1));
    let group = if rng.f64() < traffic.hot || groups == 1 {
        0
    } else {
        rng.u64(u64::from(traffic.hot > 0.0).min(groups - 1)..groups)
    };
    let adapter = (traffic.adapters > 0).then(|| group as u32 % traffic.adapters);
    let this = rng.u64(..);
    // Text of one group has about as many bytes a token as that of another, but not quite.
    let block = 58 + (group as usize * 5) % 13;
    let (shared, count) = if alone {
        (0, 1)
    } else {
        let most = traffic.max_turns.max(traffic.min_turns).max(1);
        (traffic.shared_tokens, rng.u32(traffic.min_turns.clamp(1, most)..=most))
    };
    let mut text = Text { bytes: Vec::new(), block };
    text.write(group + 1, shared);
    let mut turns = Vec::new();
    for turn in 0..count {
        let question = match alone {
            true => length(rng, usual_prompt(traffic), 0.3),
            false => length(rng, traffic.question_tokens, traffic.spread),
        };
        text.write(this ^ u64::from(2 * turn), question);
        let (prompt, bytes) = (text.tokens(), text.bytes.len());
        let answer = length(rng, traffic.answer_tokens, traffic.spread);
        text.write(this ^ u64::from(2 * turn + 1), answer);
        turns.push(Turn { prompt, answer, bytes, gap: exponential(rng) * traffic.gap_seconds });
    }
    let salt = adapter.map_or(0, |adapter| seed([&adapter.to_le_bytes()[..]]));
    let mut hash = salt;
    let blocks = text.bytes.chunks_exact(block).map(|bytes| {
        hash = xxh3_64_with_seed(bytes, hash);
        hash
    });
    let blocks = blocks.collect();
    let session = traffic.sessions.then_some(this);
    Conversation { begins, turns, text: Prompt::new(salt, [&text.bytes[..]]), blocks, session, adapter }
}

/// Tokens of the average prompt of a conversation.
fn usual_prompt(traffic: &Traffic) -> u32 {
    let turns = (traffic.min_turns + traffic.max_turns) / 2;
    traffic.shared_tokens
        + traffic.question_tokens
        + (traffic.question_tokens + traffic.answer_tokens) * turns / 2
}

/// Text that is made up, the same for the same seeds.
struct Text {
    bytes: Vec<u8>,
    /// Bytes of an engine's block.
    block: usize,
}

impl Text {
    fn write(&mut self, seed: u64, tokens: u32) {
        let until = self.bytes.len() + tokens as usize * self.block / BLOCK_TOKENS as usize;
        let mut rng = Rng::with_seed(seed);
        while self.bytes.len() < until {
            let more = rng.u64(..).to_le_bytes();
            self.bytes.extend_from_slice(&more[..more.len().min(until - self.bytes.len())]);
        }
    }

    fn tokens(&self) -> u32 {
        ((self.bytes.len() * BLOCK_TOKENS as usize / self.block) as u32).max(1)
    }
}

fn exponential(rng: &mut Rng) -> f64 {
    -(1.0 - rng.f64()).ln()
}

/// Log-normal, without the extremes that a short run cannot average out.
fn length(rng: &mut Rng, median: u32, spread: f64) -> u32 {
    let normal = (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos();
    let tokens = f64::from(median) * (spread * normal.clamp(-2.5, 2.5)).exp();
    (tokens as u32).max(1)
}
