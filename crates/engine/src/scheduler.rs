//! Decides which tokens of which requests are computed in the next step.
//!
//! Continuous batching with one token budget per step (Orca, OSDI 2022; Sarathi-Serve, arXiv 2403.02310; vLLM v1): running
//! requests go first, each with its next token or its next chunk of prompt; waiting ones follow while budget and KV
//! blocks last. When blocks run out the latest arrival gives its blocks back and is computed again later, so the
//! oldest request always makes progress. Guessed tokens go last, into what budget and free blocks are left. No clock and no device in here: a scenario is a table.

use std::collections::VecDeque;

mod plan;

pub use plan::{Plan, Work};

use crate::backend::{BLOCK_TOKENS, BlockId, Chunk, LogitsFor};
use crate::handle::RequestId;
use crate::kv::{BlockHash, BlockPool, PrefixHasher};
use crate::prefill::{Allowance, Budget, TILE};

/// Bounds of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Most tokens of one step.
    pub max_batch_tokens: usize,
    /// Most requests that hold KV blocks; at most `max_batch_tokens`.
    pub max_running: usize,
    /// Most prompt tokens of a step that also decodes, so that a long prompt does not stall running streams.
    pub prefill_tokens_while_decoding: usize,
    /// Reuse KV blocks of earlier requests with the same beginning.
    pub prefix_caching: bool,
}

/// A request as the scheduler sees it.
#[derive(Debug)]
pub struct Sequence {
    /// Ids grow in order of arrival.
    pub id: RequestId,
    /// Prompt, then generated tokens.
    pub tokens: Vec<u32>,
    /// Leading tokens whose KV is in `blocks`.
    computed: usize,
    blocks: Vec<BlockId>,
    /// Hashes of full blocks of `tokens`, as far as they were needed.
    hashes: Vec<BlockHash>,
    salt: u64,
    /// Guessed tokens at the end of `tokens`: they are there only while a step computes them.
    guessed: usize,
    /// Guessed tokens after `tokens` that have been computed, KV included, and wait for their draws.
    unproven: VecDeque<u32>,
}

impl Sequence {
    /// A request that has computed nothing yet.
    pub fn new(id: RequestId, prompt: Vec<u32>, salt: u64) -> Self {
        assert!(!prompt.is_empty(), "a request has at least one prompt token");
        Sequence {
            id,
            tokens: prompt,
            computed: 0,
            blocks: Vec::new(),
            hashes: Vec::new(),
            salt,
            guessed: 0,
            unproven: VecDeque::new(),
        }
    }

    fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Extends `hashes` to every full block within the first `tokens` tokens.
    fn hash_up_to(&mut self, tokens: usize, hasher: &PrefixHasher) {
        for index in self.hashes.len()..tokens / BLOCK_TOKENS {
            let block = &self.tokens[index * BLOCK_TOKENS..(index + 1) * BLOCK_TOKENS];
            let hash = hasher.block(self.hashes.last().copied(), self.salt, block);
            self.hashes.push(hash);
        }
    }
}

/// The state of every unfinished request.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    /// See [`Scheduler::limit_prefill`].
    prefill_limit: usize,
    /// See [`Scheduler::allow_prefill`].
    allowance: Option<Allowance>,
    hasher: PrefixHasher,
    pool: BlockPool,
    /// In order of arrival.
    running: Vec<Sequence>,
    /// In order of arrival.
    waiting: VecDeque<Sequence>,
}

impl Scheduler {
    /// A scheduler over an empty pool.
    ///
    /// # Panics
    /// When `max_batch_tokens` cannot give every running request a token.
    pub fn new(config: SchedulerConfig, pool: BlockPool, hasher: PrefixHasher) -> Self {
        assert!(config.max_running >= 1 && config.max_running <= config.max_batch_tokens);
        assert!(config.prefill_tokens_while_decoding >= 1, "prompts must advance while others decode");
        Scheduler {
            prefill_limit: config.max_batch_tokens,
            allowance: None,
            config,
            hasher,
            pool,
            running: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Queues a request behind all earlier ones. Its tokens, prompt and answer, must never need more blocks than
    /// the pool has.
    pub fn add(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    /// Changes the bound on the prompt tokens of a step, decoding or not.
    pub fn limit_prefill(&mut self, tokens: usize) {
        self.prefill_limit = tokens.max(1);
    }

    /// Changes the time that prompts may take of each step, within all bounds on tokens.
    pub(crate) fn allow_prefill(&mut self, allowance: Option<Allowance>) {
        self.allowance = allowance;
    }

    /// Sequences that decode in the next step if their blocks last.
    pub(crate) fn decoding(&self) -> usize {
        self.running.iter().filter(|sequence| sequence.pending() == 1).count()
    }

    /// Requests that hold blocks.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Requests that hold none.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The KV blocks.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Tokens of an unfinished request.
    pub fn tokens(&self, id: RequestId) -> Option<&[u32]> {
        self.find(id).map(|sequence| sequence.tokens.as_slice())
    }

    /// Chooses the next step's work and takes the blocks that it needs. Empty only when nothing is unfinished.
    pub fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        let tokens = match self.decoding() {
            0 => self.config.max_batch_tokens,
            n => (self.config.max_batch_tokens - n).min(self.config.prefill_tokens_while_decoding),
        };
        let mut prefill = Budget { tokens: tokens.min(self.prefill_limit), allowance: self.allowance };

        let mut index = 0;
        while index < self.running.len() {
            let (start, pending) = (self.running[index].computed, self.running[index].pending());
            let tokens = if pending == 1 { 1 } else { prefill.fit(start, pending) };
            if tokens == 0 {
                index += 1;
                continue;
            }
            if !self.reserve(index, tokens) {
                let victim = self.running.pop().expect("index is within running");
                plan.preempted.push(victim.id);
                self.put_back(victim);
                continue;
            }
            if pending > 1 {
                prefill.spend(start, tokens);
            }
            plan.work.push(Work {
                id: self.running[index].id,
                start,
                tokens,
                samples: tokens == pending,
                guessed: 0,
            });
            index += 1;
        }

        // A preemption means that blocks are short: admitting someone now would only preempt again.
        while plan.preempted.is_empty()
            && prefill.fit(0, TILE) > 0
            && self.running.len() < self.config.max_running
        {
            let Some(start) = self.admit() else { break };
            let sequence = self.running.last().expect("admit pushed it");
            plan.admitted.push((sequence.id, start));
            let pending = sequence.pending();
            let tokens = prefill.fit(start, pending);
            // What it found in the cache may make its tokens too dear for what is left of this step.
            if tokens == 0 {
                break;
            }
            prefill.spend(start, tokens);
            plan.work.push(Work { id: sequence.id, start, tokens, samples: tokens == pending, guessed: 0 });
        }
        plan
    }

    /// Adds guesses to the work that decodes, in order of arrival, as far as the step's budget and free blocks go: nobody
    /// waits for a guess. `guess(id, tokens, decoding, room)` guesses at most `room` tokens to follow a request's
    /// `tokens`, where `decoding` requests decode.
    pub fn speculate(
        &mut self,
        plan: &mut Plan,
        mut guess: impl FnMut(RequestId, &[u32], usize, usize) -> Vec<u32>,
    ) {
        // A preemption means that blocks are short.
        if !plan.preempted.is_empty() {
            return;
        }
        let decoding = plan.decoding();
        let mut room = self.config.max_batch_tokens - plan.tokens();
        for work in plan.work.iter_mut().filter(|work| work.decodes()) {
            let index = self.position(work.id).expect("planned work belongs to a running request");
            let guessed = guess(work.id, &self.running[index].tokens, decoding, room);
            debug_assert!(guessed.len() <= room, "more guesses than there is room for");
            let fitting = match self.reserve(index, 1 + guessed.len()) {
                true => guessed.len(),
                // The last free blocks are taken: what they hold beyond the work's one token may be guessed.
                false => {
                    let sequence = &self.running[index];
                    sequence.blocks.len() * BLOCK_TOKENS - sequence.computed - 1
                }
            };
            let sequence = &mut self.running[index];
            sequence.tokens.extend(&guessed[..fitting]);
            sequence.guessed = fitting;
            work.guessed = fitting;
            work.tokens += fitting;
            room -= fitting;
        }
    }

    /// The work as a backend takes it.
    pub fn chunk(&self, work: &Work) -> Chunk<'_> {
        let sequence = self.find(work.id).expect("planned work belongs to a running request");
        let start = sequence.computed;
        Chunk {
            tokens: &sequence.tokens[start..start + work.tokens],
            start,
            blocks: &sequence.blocks,
            logits: match (work.samples, work.guessed) {
                (false, _) => LogitsFor::None,
                (true, 0) => LogitsFor::Last,
                (true, _) => LogitsFor::All,
            },
        }
    }

    /// Records that the work has been computed; full blocks become findable, as far as nothing in them is guessed.
    pub fn complete(&mut self, work: &Work) {
        let Some(index) = self.position(work.id) else { return };
        let sequence = &mut self.running[index];
        let known = sequence.tokens.len() - std::mem::take(&mut sequence.guessed);
        sequence.unproven = sequence.tokens.drain(known..).collect();
        self.advance(index, work.tokens - work.guessed);
    }

    /// Appends a generated token; true when it had been guessed, so that the logits after it are there already.
    pub fn push(&mut self, id: RequestId, token: u32) -> bool {
        let Some(index) = self.position(id) else { return false };
        let sequence = &mut self.running[index];
        sequence.tokens.push(token);
        let Some(guess) = sequence.unproven.pop_front() else { return false };
        if guess == token {
            self.advance(index, 1);
            return true;
        }
        // KV of wrong guesses is overwritten by what comes in their place; the blocks that they alone needed are free again.
        sequence.unproven.clear();
        for block in sequence.blocks.drain(sequence.tokens.len().div_ceil(BLOCK_TOKENS)..).rev() {
            self.pool.release(block);
        }
        false
    }

    /// Forgets a request and releases its blocks; true when it was unfinished.
    pub fn remove(&mut self, id: RequestId) -> bool {
        if let Some(index) = self.position(id) {
            let mut sequence = self.running.remove(index);
            self.release(&mut sequence);
            return true;
        }
        let before = self.waiting.len();
        self.waiting.retain(|sequence| sequence.id != id);
        self.waiting.len() < before
    }

    fn find(&self, id: RequestId) -> Option<&Sequence> {
        self.running.iter().chain(&self.waiting).find(|sequence| sequence.id == id)
    }

    /// Index in `running`.
    fn position(&self, id: RequestId) -> Option<usize> {
        self.running.iter().position(|sequence| sequence.id == id)
    }

    /// The KV of the next `tokens` tokens of `running[index]` is there, and final.
    fn advance(&mut self, index: usize, tokens: usize) {
        let sequence = &mut self.running[index];
        let first_block = sequence.computed / BLOCK_TOKENS;
        sequence.computed += tokens;
        if !self.config.prefix_caching {
            return;
        }
        sequence.hash_up_to(sequence.computed, &self.hasher);
        for index in first_block..sequence.computed / BLOCK_TOKENS {
            self.pool.publish(sequence.blocks[index], sequence.hashes[index]);
        }
    }

    /// Gives `running[index]` the blocks for its next `tokens` tokens; false when the pool is empty.
    fn reserve(&mut self, index: usize, tokens: usize) -> bool {
        let sequence = &mut self.running[index];
        let wanted = (sequence.computed + tokens).div_ceil(BLOCK_TOKENS);
        while sequence.blocks.len() < wanted {
            match self.pool.allocate() {
                Some(block) => sequence.blocks.push(block),
                None => return false,
            }
        }
        true
    }

    /// Moves the first waiting request to running if the pool can hold all of its tokens and one more; returns the
    /// number of tokens found in the cache.
    fn admit(&mut self) -> Option<usize> {
        let sequence = self.waiting.front_mut()?;
        let mut found = (Vec::new(), 0);
        if self.config.prefix_caching {
            sequence.hash_up_to(sequence.tokens.len(), &self.hasher);
            // The last token is always computed: its logits are what the request is waiting for.
            let usable = (sequence.tokens.len() - 1) / BLOCK_TOKENS;
            found = self.pool.find(&sequence.hashes[..usable]);
        }
        let (cached, cached_free) = found;
        let wanted = (sequence.tokens.len() + 1).div_ceil(BLOCK_TOKENS).min(self.pool.len());
        if self.pool.free() - cached_free < wanted - cached.len() {
            return None;
        }
        let mut sequence = self.waiting.pop_front().expect("front exists");
        for block in &cached {
            self.pool.share(*block);
        }
        let tokens = cached.len() * BLOCK_TOKENS;
        sequence.computed = tokens;
        sequence.blocks = cached;
        while sequence.blocks.len() < wanted {
            sequence.blocks.push(self.pool.allocate().expect("free blocks were counted above"));
        }
        let index = self.running.partition_point(|other| other.id < sequence.id);
        debug_assert_eq!(index, self.running.len(), "waiting requests are later than running ones");
        self.running.push(sequence);
        Some(tokens)
    }

    fn put_back(&mut self, mut sequence: Sequence) {
        self.release(&mut sequence);
        self.waiting.push_front(sequence);
    }

    fn release(&mut self, sequence: &mut Sequence) {
        // The end of a sequence is the least likely to be shared, so it is released, and later evicted, first.
        for block in sequence.blocks.drain(..).rev() {
            self.pool.release(block);
        }
        sequence.computed = 0;
    }
}

#[cfg(test)]
mod tests;
