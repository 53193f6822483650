//! One engine at work: what waits, what runs, and what a step does.
//!
//! Each step gives every answer a token and spends the rest of the budget on prompts in the order in which they came. A request is let in
//! when there is room for its prompt and its whole answer, so none is ever put back.

use std::collections::VecDeque;
use std::sync::Arc;

use super::cache::Cache;
use super::engine::{BLOCK_TOKENS, Engine};
use super::traffic::{Conversation, Turn};
use crate::Load;

/// A request as an engine sees it.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) id: usize,
    pub(super) prompt: u32,
    pub(super) answer: u32,
    /// Hashes of the blocks of prompt and answer, and maybe of what comes later.
    pub(super) blocks: Arc<[u64]>,
    pub(super) adapter: Option<u32>,
}

impl Job {
    pub(super) fn new(id: usize, conversation: &Conversation, turn: &Turn) -> Job {
        Job {
            id,
            prompt: turn.prompt,
            answer: turn.answer,
            blocks: Arc::clone(&conversation.blocks),
            adapter: conversation.adapter,
        }
    }
}

/// What a step brought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Event {
    /// The first token of an answer; so many tokens of its prompt were cached.
    First { id: usize, cached: u32 },
    /// The last one.
    Last { id: usize },
}

#[derive(Debug)]
struct Row {
    job: Job,
    cached: u32,
    /// Tokens of the prompt that are there.
    computed: u32,
    answered: u32,
    /// Leading blocks that are in the cache on this request's behalf.
    shared: usize,
    own: usize,
    /// Tokens of its prompt in the step that runs.
    chunk: u32,
}

#[derive(Debug)]
pub(super) struct Replica {
    engine: Engine,
    cache: Cache,
    waiting: VecDeque<Job>,
    rows: Vec<Row>,
    /// Latest last.
    adapters: Vec<u32>,
    pub(super) busy: f64,
}

impl Replica {
    pub(super) fn new(engine: Engine) -> Replica {
        let cache = Cache::new(engine.blocks());
        Replica { engine, cache, waiting: VecDeque::new(), rows: Vec::new(), adapters: Vec::new(), busy: 0.0 }
    }

    pub(super) fn push(&mut self, job: Job) {
        self.waiting.push_back(job);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.rows.is_empty()
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Everything that is lost when it dies.
    pub(super) fn ids(&self) -> Vec<usize> {
        self.rows.iter().map(|row| row.job.id).chain(self.waiting.iter().map(|job| job.id)).collect()
    }

    pub(super) fn load(&self) -> Load {
        Load {
            running: self.rows.len() as u32,
            waiting: self.waiting.len() as u32,
            kv_cache: self.cache.usage(),
            kv_tokens: Some(u64::from(self.engine.kv_tokens)),
            adapters: self.adapters.iter().map(|adapter| adapter_name(*adapter)).collect(),
        }
    }

    /// Begins a step and says how long it takes, in seconds; `None` if there is nothing to do.
    pub(super) fn begin(&mut self) -> Option<f64> {
        let engine = self.engine;
        let mut seconds = engine.step_seconds;
        let mut budget = engine.budget;
        for row in self.rows.iter().filter(|row| row.answered > 0) {
            budget = budget.saturating_sub(1);
            let context = row.job.prompt + row.answered;
            seconds += engine.row_seconds + engine.context_seconds * f64::from(context);
        }
        for row in self.rows.iter_mut().filter(|row| row.answered == 0) {
            seconds += row.compute(&mut budget, &engine);
        }
        while budget > 0 && self.rows.len() < engine.max_running as usize {
            let Some(mut row) = self.admit() else { break };
            seconds += row.compute(&mut budget, &engine) + self.load_adapter(row.job.adapter);
            self.rows.push(row);
        }
        if self.rows.is_empty() {
            return None;
        }
        self.busy += seconds;
        Some(seconds)
    }

    /// Ends the step that runs.
    pub(super) fn end(&mut self, events: &mut Vec<Event>) {
        let cache = &mut self.cache;
        self.rows.retain_mut(|row| {
            row.computed += std::mem::take(&mut row.chunk);
            if row.computed < row.job.prompt {
                return true;
            }
            if row.answered == 0 {
                row.publish(row.job.prompt, cache);
                events.push(Event::First { id: row.job.id, cached: row.cached });
            }
            row.answered += 1;
            if row.answered < row.job.answer {
                return true;
            }
            events.push(Event::Last { id: row.job.id });
            // The last token is never computed on.
            row.publish(row.job.prompt + row.answered - 1, cache);
            cache.release(&row.job.blocks[..row.shared]);
            cache.free(row.own);
            false
        });
    }

    fn admit(&mut self) -> Option<Row> {
        let job = self.waiting.front()?;
        // One token at least has to be computed for the answer to begin.
        let most = (job.prompt.saturating_sub(1) / BLOCK_TOKENS) as usize;
        let shared = self.cache.matched(&job.blocks[..most.min(job.blocks.len())]);
        let own = ((job.prompt + job.answer).div_ceil(BLOCK_TOKENS) as usize).saturating_sub(shared);
        self.cache.hold(&job.blocks[..shared]);
        if !self.cache.take(own) {
            if !self.rows.is_empty() {
                self.cache.release(&job.blocks[..shared]);
                return None;
            }
            self.cache.force(own);
        }
        let job = self.waiting.pop_front()?;
        let cached = shared as u32 * BLOCK_TOKENS;
        Some(Row { job, cached, computed: cached, answered: 0, shared, own, chunk: 0 })
    }

    fn load_adapter(&mut self, adapter: Option<u32>) -> f64 {
        let Some(adapter) = adapter else { return 0.0 };
        let before = self.adapters.len();
        self.adapters.retain(|known| *known != adapter);
        let seconds = if self.adapters.len() < before { 0.0 } else { self.engine.adapter_seconds };
        self.adapters.push(adapter);
        if self.adapters.len() > self.engine.adapters.max(1) as usize {
            self.adapters.remove(0);
        }
        seconds
    }
}

impl Row {
    fn compute(&mut self, budget: &mut u32, engine: &Engine) -> f64 {
        self.chunk = (*budget).min(self.job.prompt - self.computed);
        *budget -= self.chunk;
        let chunk = f64::from(self.chunk);
        let pairs = chunk * (f64::from(self.computed) + chunk / 2.0);
        engine.prefill_seconds * chunk + engine.pair_seconds * pairs
    }

    /// What is computed up to here may be shared from now on.
    fn publish(&mut self, tokens: u32, cache: &mut Cache) {
        let until = ((tokens / BLOCK_TOKENS) as usize).min(self.job.blocks.len());
        if until > self.shared {
            cache.publish(&self.job.blocks[self.shared..until]);
            self.own -= until - self.shared;
            self.shared = until;
        }
    }
}

pub(super) fn adapter_name(adapter: u32) -> String {
    format!("adapter-{adapter}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(replica: &mut Replica) -> (f64, Vec<Event>) {
        let (mut seconds, mut events) = (0.0, Vec::new());
        while let Some(step) = replica.begin() {
            seconds += step;
            replica.end(&mut events);
        }
        (seconds, events)
    }

    fn job(id: usize, prompt: u32, answer: u32, first: u64) -> Job {
        let blocks = (0..u64::from((prompt + answer) / BLOCK_TOKENS)).map(|block| first + block).collect();
        Job { id, prompt, answer, blocks, adapter: None }
    }

    /// Tokens a second while `streams` answer after prompts of `prompt` tokens.
    fn decode_rate(streams: usize, prompt: u32) -> f64 {
        let mut replica = Replica::new(Engine { kv_tokens: 1 << 20, ..Engine::cpu() });
        (0..streams).for_each(|id| replica.push(job(id, prompt, 65, id as u64 * 100_000)));
        let mut events = Vec::new();
        let mut seconds = 0.0;
        while let Some(step) = replica.begin() {
            seconds += if replica.rows.iter().all(|row| row.answered > 0) { step } else { 0.0 };
            replica.end(&mut events);
        }
        (streams * 64) as f64 / seconds
    }

    #[test]
    fn takes_as_long_as_the_engine_that_was_measured() {
        let mut replica = Replica::new(Engine::cpu());
        replica.push(job(0, 512, 1, 0));
        let (seconds, _) = run(&mut replica);
        for (rate, measured) in [
            (512.0 / seconds, 1928.0),
            (decode_rate(1, 16), 324.0),
            (decode_rate(8, 16), 1032.0),
            (decode_rate(32, 16), 1325.0),
            (decode_rate(1, 4064), 89.9),
        ] {
            assert!((rate / measured - 1.0).abs() < 0.08, "{rate} where {measured} was measured");
        }
    }

    #[test]
    fn the_next_turn_finds_prompt_and_answer_cached() {
        let mut replica = Replica::new(Engine::cpu());
        replica.push(job(0, 160, 33, 0));
        run(&mut replica);
        replica.push(job(1, 320, 1, 0));
        let (_, events) = run(&mut replica);
        assert_eq!(events[0], Event::First { id: 1, cached: 192 });
    }

    #[test]
    fn requests_wait_while_there_is_no_room_and_all_are_answered() {
        let mut replica = Replica::new(Engine { kv_tokens: 512, ..Engine::cpu() });
        (0..5).for_each(|id| replica.push(job(id, 200, 20, id as u64 * 1000)));
        replica.push(job(5, 2000, 4, 90_000));
        replica.begin();
        assert_eq!((replica.load().running, replica.load().waiting), (2, 4));
        let mut events = Vec::new();
        replica.end(&mut events);
        let (_, rest) = run(&mut replica);
        let ended = events.iter().chain(&rest).filter(|event| matches!(event, Event::Last { .. })).count();
        assert_eq!((ended, replica.load().kv_cache), (6, 0.0));
    }
}
