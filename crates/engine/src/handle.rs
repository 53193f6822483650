//! The only way into a running engine: submit, abort, look.
//!
//! Callers and the engine's thread meet in one mutex that is held for a few instructions at a time, never during a step.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use crate::backend::BLOCK_TOKENS;
use crate::request::Request;

/// Names one submitted request. Ids grow in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A cheap clone that any thread may hold. When the last one is dropped the engine's thread finishes the requests that it
/// has and ends.
pub struct EngineHandle {
    shared: Arc<Shared>,
}

/// Why a request was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The waiting queue is full: try again later (429).
    #[error("the waiting queue is full ({limit} requests)")]
    QueueFull {
        /// The queue's bound.
        limit: usize,
    },
    /// The prompt can never fit (400).
    #[error("the prompt has {tokens} tokens; prompt and answer together may have {limit}")]
    PromptTooLong {
        /// Tokens in the prompt.
        tokens: usize,
        /// Most tokens that prompt and answer may have together.
        limit: usize,
    },
    /// A field that the engine cannot honour (400).
    #[error("{0}")]
    Invalid(String),
    /// The engine has stopped (503).
    #[error("the engine has stopped")]
    Stopped,
}

/// The engine's state at its last step; reading it never waits for a step.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Requests that have KV blocks and are being computed.
    pub running: usize,
    /// Requests accepted and not being computed, preempted ones included.
    pub waiting: usize,
    /// KV blocks in use by running requests (cached, evictable ones do not count).
    pub kv_blocks_used: usize,
    /// KV blocks in all.
    pub kv_blocks_total: usize,
    /// Tokens per KV block.
    pub kv_block_tokens: usize,
    /// Counters since start.
    pub totals: Totals,
    /// When the last step ended, or when an idle engine was given work: with work queued and this long past, the engine
    /// is stuck.
    pub last_progress: Instant,
    /// The engine's thread has ended, by itself or by a panic.
    pub stopped: bool,
}

/// Counters since start; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Prompt tokens of started requests.
    pub prompt_tokens: u64,
    /// Generated tokens.
    pub generation_tokens: u64,
    /// Times a running request lost its KV blocks to another.
    pub preemptions: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_cache_queries: u64,
    /// Prompt tokens found there.
    pub prefix_cache_hits: u64,
    /// Times that tokens of a request were guessed.
    pub drafts: u64,
    /// Guessed tokens that were computed.
    pub draft_tokens: u64,
    /// Guessed tokens that were right.
    pub accepted_draft_tokens: u64,
}

impl EngineHandle {
    pub(crate) fn new(limits: Limits) -> (EngineHandle, Arc<Shared>) {
        let shared = Arc::new(Shared {
            limits,
            state: Mutex::new(State {
                arrivals: VecDeque::new(),
                aborts: Vec::new(),
                next_id: 0,
                unstarted: 0,
                running: 0,
                waiting: 0,
                kv_blocks_used: 0,
                totals: Totals::default(),
                last_progress: Instant::now(),
                stopped: false,
            }),
            changed: Condvar::new(),
            handles: AtomicUsize::new(1),
            observer: OnceLock::new(),
        });
        (EngineHandle { shared: Arc::clone(&shared) }, shared)
    }

    /// Queues a request without blocking.
    pub fn submit(&self, request: Request) -> Result<RequestId, SubmitError> {
        let limits = &self.shared.limits;
        check(&request, limits)?;
        let mut state = self.shared.lock();
        if state.stopped {
            return Err(SubmitError::Stopped);
        }
        if state.unstarted >= limits.max_waiting {
            return Err(SubmitError::QueueFull { limit: limits.max_waiting });
        }
        let now = Instant::now();
        if state.running + state.waiting + state.arrivals.len() == 0 {
            state.last_progress = now;
        }
        state.next_id += 1;
        state.unstarted += 1;
        let id = RequestId(state.next_id);
        state.arrivals.push_back(Arrival { id, request, submitted: now });
        drop(state);
        self.shared.changed.notify_one();
        Ok(id)
    }

    /// Ends a request with [`crate::FinishReason::Aborted`] before the next step; ids of finished requests are ignored.
    pub fn abort(&self, id: RequestId) {
        self.shared.lock().aborts.push(id);
        self.shared.changed.notify_one();
    }

    /// The engine's state at its last step.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.shared.lock();
        Snapshot {
            running: state.running,
            waiting: state.waiting + state.arrivals.len(),
            kv_blocks_used: state.kv_blocks_used,
            kv_blocks_total: self.shared.limits.kv_blocks,
            kv_block_tokens: BLOCK_TOKENS,
            totals: state.totals,
            last_progress: state.last_progress,
            stopped: state.stopped,
        }
    }

    /// Has `observer` called after every step from now on, for histograms; only the first observer is kept.
    pub fn observe_steps(&self, observer: StepObserver) {
        let _ = self.shared.observer.set(observer);
    }

    /// Most tokens that prompt and answer of one request may have together.
    pub fn max_model_len(&self) -> usize {
        self.shared.limits.max_model_len
    }

    /// Tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.shared.limits.vocab_size
    }
}

impl Clone for EngineHandle {
    fn clone(&self) -> Self {
        self.shared.handles.fetch_add(1, Ordering::Relaxed);
        EngineHandle { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        if self.shared.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Taking the lock orders this after a concurrent check of the count and before its wait.
            drop(self.shared.lock());
            self.shared.changed.notify_one();
        }
    }
}

/// Refuses what the engine could not honour later.
fn check(request: &Request, limits: &Limits) -> Result<(), SubmitError> {
    let invalid = |message: String| Err(SubmitError::Invalid(message));
    if request.prompt.is_empty() {
        return invalid("the prompt has no tokens".into());
    }
    if request.prompt.len() >= limits.max_model_len {
        return Err(SubmitError::PromptTooLong { tokens: request.prompt.len(), limit: limits.max_model_len });
    }
    if let Some(token) = request.prompt.iter().find(|token| **token as usize >= limits.vocab_size) {
        return invalid(format!("prompt token {token} is outside the vocabulary of {}", limits.vocab_size));
    }
    if request.stop.max_tokens == 0 {
        return invalid("max_tokens must be at least 1".into());
    }
    let sampling = &request.sampling;
    let in_range = sampling.temperature.is_finite()
        && sampling.temperature >= 0.0
        && (0.0..=1.0).contains(&sampling.top_p)
        && (0.0..=1.0).contains(&sampling.min_p)
        // Beyond these, dividing a logit by the penalty overflows.
        && (0.01..=100.0).contains(&sampling.repetition_penalty)
        && sampling.frequency_penalty.is_finite()
        && sampling.presence_penalty.is_finite()
        && sampling.logit_bias.iter().all(|(_, bias)| !bias.is_nan());
    if !in_range {
        return invalid("a sampling parameter is out of range".into());
    }
    Ok(())
}

/// What a request is checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_model_len: usize,
    pub(crate) max_waiting: usize,
    pub(crate) vocab_size: usize,
    pub(crate) kv_blocks: usize,
}

/// A request on its way to the engine's thread.
pub(crate) struct Arrival {
    pub(crate) id: RequestId,
    pub(crate) request: Request,
    pub(crate) submitted: Instant,
}

/// What came in since the engine last looked.
pub(crate) struct Inbox {
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) aborts: Vec<RequestId>,
}

/// Hears how many tokens each step computed, on the engine's thread.
pub type StepObserver = Box<dyn Fn(usize) + Send + Sync>;

pub(crate) struct Shared {
    limits: Limits,
    state: Mutex<State>,
    changed: Condvar,
    handles: AtomicUsize,
    observer: OnceLock<StepObserver>,
}

struct State {
    arrivals: VecDeque<Arrival>,
    aborts: Vec<RequestId>,
    next_id: u64,
    /// Accepted requests that have not had their first step; bounded by `max_waiting`.
    unstarted: usize,
    running: usize,
    waiting: usize,
    kv_blocks_used: usize,
    totals: Totals,
    last_progress: Instant,
    stopped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding the lock, and the state is valid between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what came in, waiting for something when the engine is idle; `None` when idle and no handle is left.
    pub(crate) fn wait_for_work(&self, idle: bool) -> Option<Inbox> {
        let mut state = self.lock();
        while idle && state.arrivals.is_empty() {
            // Aborts of finished requests mean nothing to an idle engine.
            state.aborts.clear();
            if self.handles.load(Ordering::Acquire) == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let inbox =
            Inbox { arrivals: state.arrivals.drain(..).collect(), aborts: std::mem::take(&mut state.aborts) };
        // Between here and the step's end they are in nobody's count unless they are counted as waiting now.
        state.waiting += inbox.arrivals.len();
        Some(inbox)
    }

    pub(crate) fn stepped(&self, tokens: usize) {
        if let Some(observer) = self.observer.get() {
            observer(tokens);
        }
    }

    /// A request left the bounded queue: it had its first step, or ended before.
    pub(crate) fn started(&self) {
        self.lock().unstarted -= 1;
    }

    pub(crate) fn publish(&self, running: usize, waiting: usize, kv_blocks_used: usize, totals: Totals) {
        let mut state = self.lock();
        state.running = running;
        state.waiting = waiting;
        state.kv_blocks_used = kv_blocks_used;
        state.totals = totals;
        state.last_progress = Instant::now();
    }

    /// Refuses further requests and returns those that nobody took.
    pub(crate) fn stop(&self) -> VecDeque<Arrival> {
        let mut state = self.lock();
        state.stopped = true;
        state.unstarted = 0;
        (state.running, state.waiting, state.kv_blocks_used) = (0, 0, 0);
        std::mem::take(&mut state.arrivals)
    }
}
