//! Decides which tokens of which requests are computed in the next step.
//!
//! Continuous batching with one token budget per step (Orca, OSDI 2022; Sarathi-Serve, arXiv 2403.02310; vLLM v1): running
//! requests go first, each with its next token or its next chunk of prompt; waiting ones follow while budget and KV
//! blocks last. When blocks run out the latest arrival gives its blocks back and is computed again later, so the
//! oldest request always makes progress. No clock and no device in here: a scenario is a table.

use std::collections::VecDeque;

use crate::backend::{BLOCK_TOKENS, BlockId, Chunk, LogitsFor};
use crate::handle::RequestId;
use crate::kv::{BlockHash, BlockPool, PrefixHasher};

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
}

impl Sequence {
    /// A request that has computed nothing yet.
    pub fn new(id: RequestId, prompt: Vec<u32>, salt: u64) -> Self {
        assert!(!prompt.is_empty(), "a request has at least one prompt token");
        Sequence { id, tokens: prompt, computed: 0, blocks: Vec::new(), hashes: Vec::new(), salt }
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

/// Tokens of one request to compute in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Whose.
    pub id: RequestId,
    /// How many, from the first that is not computed.
    pub tokens: usize,
    /// This computes the request's last token, so the next one can be sampled.
    pub samples: bool,
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

/// The state of every unfinished request.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    /// See [`Scheduler::limit_prefill`].
    prefill_limit: usize,
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
        let decoding = self.running.iter().filter(|sequence| sequence.pending() == 1).count();
        let mut prefill_budget = match decoding {
            0 => self.config.max_batch_tokens,
            n => (self.config.max_batch_tokens - n).min(self.config.prefill_tokens_while_decoding),
        }
        .min(self.prefill_limit);

        let mut index = 0;
        while index < self.running.len() {
            let pending = self.running[index].pending();
            let tokens = if pending == 1 { 1 } else { pending.min(prefill_budget) };
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
                prefill_budget -= tokens;
            }
            plan.work.push(Work { id: self.running[index].id, tokens, samples: tokens == pending });
            index += 1;
        }

        // A preemption means that blocks are short: admitting someone now would only preempt again.
        while plan.preempted.is_empty() && prefill_budget > 0 && self.running.len() < self.config.max_running
        {
            let Some(cached) = self.admit() else { break };
            let sequence = self.running.last().expect("admit pushed it");
            let pending = sequence.pending();
            let tokens = pending.min(prefill_budget);
            prefill_budget -= tokens;
            plan.admitted.push((sequence.id, cached));
            plan.work.push(Work { id: sequence.id, tokens, samples: tokens == pending });
        }
        plan
    }

    /// The work as a backend takes it.
    pub fn chunk(&self, work: &Work) -> Chunk<'_> {
        let sequence = self.find(work.id).expect("planned work belongs to a running request");
        let start = sequence.computed;
        Chunk {
            tokens: &sequence.tokens[start..start + work.tokens],
            start,
            blocks: &sequence.blocks,
            logits: if work.samples { LogitsFor::Last } else { LogitsFor::None },
        }
    }

    /// Records that the work has been computed; full blocks become findable.
    pub fn complete(&mut self, work: &Work) {
        let Some(sequence) = self.running.iter_mut().find(|sequence| sequence.id == work.id) else { return };
        let first_block = sequence.computed / BLOCK_TOKENS;
        sequence.computed += work.tokens;
        if !self.config.prefix_caching {
            return;
        }
        sequence.hash_up_to(sequence.computed, &self.hasher);
        for index in first_block..sequence.computed / BLOCK_TOKENS {
            self.pool.publish(sequence.blocks[index], sequence.hashes[index]);
        }
    }

    /// Appends a generated token.
    pub fn push(&mut self, id: RequestId, token: u32) {
        if let Some(sequence) = self.running.iter_mut().find(|sequence| sequence.id == id) {
            sequence.tokens.push(token);
        }
    }

    /// Forgets a request and releases its blocks; true when it was unfinished.
    pub fn remove(&mut self, id: RequestId) -> bool {
        if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
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
