//! The engine's thread: takes requests, runs steps, samples, reports.
//!
//! Everything that decides lives elsewhere (scheduler, sampler); this file moves data between them, the backend and the
//! requests' sinks, and keeps the one promise that a loop must keep: every accepted request hears exactly one
//! `Finished`, `Failed` or `Lost`.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

mod config;

pub use config::{EngineConfig, StartError};

use crate::backend::{BLOCK_TOKENS, Backend, BackendError, Logits};
use crate::handle::{Arrival, EngineHandle, Limits, RequestId, Shared, Totals};
use crate::kv::{BlockPool, PrefixHasher};
use crate::prefill::{self, StepCosts};
use crate::request::{Event, EventSink, FinishReason, LogitsHook, SamplingParams, StopConditions, Usage};
use crate::sampler::{self, History};
use crate::scheduler::{Plan, Scheduler, SchedulerConfig, Sequence, Work};
use crate::speculation::{Drafter, Prices, Speculation};

/// Tells the time.
type Clock = Box<dyn Fn() -> Instant + Send>;

/// Starts an engine on a thread of its own. The thread ends when every handle is gone and every request finished.
pub fn start(backend: Box<dyn Backend>, config: EngineConfig) -> Result<EngineHandle, StartError> {
    start_with_clock(backend, config, Box::new(Instant::now))
}

fn start_with_clock(
    backend: Box<dyn Backend>,
    config: EngineConfig,
    clock: Clock,
) -> Result<EngineHandle, StartError> {
    let capacity = backend.kv_blocks() * BLOCK_TOKENS;
    if config.max_model_len < 2
        || config.max_running < 1
        || config.max_waiting < 1
        || config.prefill_tokens_while_decoding < 1
    {
        return Err(StartError::Invalid("max_model_len must be at least 2, every other bound at least 1"));
    }
    if capacity < config.max_model_len {
        return Err(StartError::CacheTooSmall { capacity, max_model_len: config.max_model_len });
    }
    let max_batch_tokens = config.max_batch_tokens.min(backend.max_batch_tokens());
    if max_batch_tokens < config.max_running {
        return Err(StartError::Invalid("max_batch_tokens must be at least max_running"));
    }
    let scheduler = Scheduler::new(
        SchedulerConfig {
            max_batch_tokens,
            max_running: config.max_running,
            prefill_tokens_while_decoding: config.prefill_tokens_while_decoding,
            prefix_caching: config.prefix_caching,
        },
        BlockPool::new(backend.kv_blocks()),
        PrefixHasher::random(),
    );
    let limits = Limits {
        max_model_len: config.max_model_len,
        max_waiting: config.max_waiting,
        vocab_size: backend.vocab_size(),
        kv_blocks: backend.kv_blocks(),
    };
    let (handle, shared) = EngineHandle::new(limits);
    let engine = Engine {
        backend,
        scheduler,
        streams: HashMap::new(),
        logits: Logits::default(),
        max_model_len: config.max_model_len,
        speculation: config.speculation,
        prices: Prices::new(),
        costs: StepCosts::new(config.inter_token_latency_target),
        clock,
        prefill_limit: max_batch_tokens,
        most_prefill: max_batch_tokens,
        totals: Totals::default(),
        shared: Arc::clone(&shared),
    };
    std::thread::Builder::new()
        .name("engine".into())
        .spawn(move || run(engine, &shared))
        .map_err(StartError::Thread)?;
    Ok(handle)
}

fn run(mut engine: Engine, shared: &Shared) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        while let Some(inbox) = shared.wait_for_work(engine.streams.is_empty()) {
            engine.take(inbox.arrivals, &inbox.aborts);
            engine.step()?;
        }
        Ok(())
    }));
    let end = match outcome {
        // Without a panic or a loss there is no request left, but for one that comes in at this moment.
        Ok(Ok(())) => Event::Failed { message: STOPPED.into() },
        Ok(Err(Lost(message))) => Event::Lost { message },
        Err(_) => {
            tracing::error!("the engine panicked; all of its requests failed");
            Event::Failed { message: STOPPED.into() }
        }
    };
    let arrivals = shared.stop().into_iter().map(|arrival| arrival.request.sink);
    for mut sink in arrivals.chain(engine.streams.drain().map(|(_, stream)| stream.sink)) {
        let _ = sink(end.clone());
    }
}

/// The device is gone.
struct Lost(String);

const STOPPED: &str = "the engine stopped because of an internal error";

struct Engine {
    backend: Box<dyn Backend>,
    scheduler: Scheduler,
    streams: HashMap<RequestId, Stream>,
    logits: Logits,
    max_model_len: usize,
    speculation: Speculation,
    prices: Prices,
    costs: StepCosts,
    clock: Clock,
    /// Prompt tokens that a step may have at the moment, and at most.
    prefill_limit: usize,
    most_prefill: usize,
    totals: Totals,
    shared: Arc<Shared>,
}

/// What the engine knows of a request beyond its tokens.
struct Stream {
    sampling: SamplingParams,
    stop: StopConditions,
    logprobs: Option<usize>,
    hook: Option<LogitsHook>,
    sink: EventSink,
    history: History,
    drafter: Drafter,
    prompt_tokens: usize,
    cached_tokens: usize,
    submitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
}

impl Engine {
    fn take(&mut self, arrivals: Vec<Arrival>, aborts: &[RequestId]) {
        for Arrival { id, request, submitted } in arrivals {
            let stream = Stream {
                history: History::new(&request.prompt, &request.sampling),
                drafter: Drafter::new(self.speculation),
                prompt_tokens: request.prompt.len(),
                cached_tokens: 0,
                sampling: request.sampling,
                stop: request.stop,
                logprobs: request.logprobs,
                hook: request.logits_hook,
                sink: request.sink,
                submitted,
                started: None,
                first_token: None,
            };
            self.streams.insert(id, stream);
            self.scheduler.add(Sequence::new(id, request.prompt, request.cache_salt));
        }
        for id in aborts {
            self.finish(*id, FinishReason::Aborted);
        }
    }

    fn step(&mut self) -> Result<(), Lost> {
        let began = (self.clock)();
        self.scheduler.allow_prefill(self.costs.allowance(self.scheduler.decoding()));
        let mut plan = self.scheduler.plan();
        self.note_admissions(&plan, began);
        self.speculate(&mut plan);
        if !plan.work.is_empty() {
            self.compute(&plan, began)?;
        }
        let pool = self.scheduler.pool();
        self.shared.publish(self.scheduler.running(), self.scheduler.waiting(), pool.used(), self.totals);
        Ok(())
    }

    fn speculate(&mut self, plan: &mut Plan) {
        if self.speculation == Speculation::Off {
            return;
        }
        self.scheduler.speculate(plan, |id, tokens, decoding, room| {
            let stream = self.streams.get_mut(&id).expect("planned requests have a stream");
            // The step yields one token more than is guessed, and none is wanted after the end.
            let left = stream.tokens_left(self.max_model_len);
            let room = room.min(left.saturating_sub(1));
            stream.drafter.guess(tokens, decoding, &self.prices, room)
        });
    }

    /// Computes and ends a step.
    fn compute(&mut self, plan: &Plan, step_began: Instant) -> Result<(), Lost> {
        let began = (self.clock)();
        let chunks: Vec<_> = plan.work.iter().map(|work| self.scheduler.chunk(work)).collect();
        let computed = self.backend.forward(&chunks, &mut self.logits);
        let (tokens, took) = (plan.tokens(), (self.clock)().duration_since(began));
        self.prefill_limit = prefill::limit(self.prefill_limit, self.most_prefill, tokens, took);
        self.scheduler.limit_prefill(self.prefill_limit);
        let guessed: usize = plan.work.iter().map(|work| work.guessed).sum();
        if tokens == plan.work.len() + guessed {
            self.prices.observe(plan.work.len(), guessed, took.as_secs_f64());
        }
        // Counted before anybody hears of a token: who has the answer finds its steps in the metrics.
        self.shared.stepped(tokens);
        match computed {
            Ok(()) => {
                self.take_results(plan);
                // A stream waits for all of it: planning, computing, drawing tokens and handing them over.
                let took = (self.clock)().duration_since(step_began);
                self.costs.observe(&plan.load(), took.as_secs_f64());
            }
            Err(BackendError::Lost(message)) => {
                tracing::error!(
                    reason = message,
                    "the device is gone; all requests fail and the engine stops"
                );
                return Err(Lost(message));
            }
            Err(error @ (BackendError::InvalidBatch(_) | BackendError::Device { .. })) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a step failed");
                let message = format!("the forward pass failed: {error}");
                for work in &plan.work {
                    self.fail(work.id, message.clone());
                }
            }
        }
        Ok(())
    }

    fn note_admissions(&mut self, plan: &Plan, now: Instant) {
        self.totals.preemptions += plan.preempted.len() as u64;
        for (id, cached) in &plan.admitted {
            let stream = self.streams.get_mut(id).expect("admitted requests have a stream");
            if stream.started.is_some() {
                // Back from preemption: already counted.
                continue;
            }
            stream.started = Some(now);
            stream.cached_tokens = *cached;
            self.shared.started();
            self.totals.prompt_tokens += stream.prompt_tokens as u64;
            self.totals.prefix_cache_queries += stream.prompt_tokens as u64;
            self.totals.prefix_cache_hits += *cached as u64;
        }
    }

    fn take_results(&mut self, plan: &Plan) {
        let mut row = 0;
        for work in &plan.work {
            self.scheduler.complete(work);
            self.sample(work, row);
            row += work.rows();
        }
    }

    /// Draws the tokens that the work's logits, from `row` on, are good for: one, and one more after each right guess.
    fn sample(&mut self, work: &Work, row: usize) {
        self.totals.drafts += u64::from(work.guessed > 0);
        self.totals.draft_tokens += work.guessed as u64;
        let rows = row..row + work.rows();
        let right = rows.take_while(|row| self.sample_row(work.id, *row).is_continue()).count();
        if work.guessed > 0
            && let Some(stream) = self.streams.get_mut(&work.id)
        {
            stream.drafter.judge(work.guessed, right);
        }
    }

    /// Draws one token; goes on when it had been guessed, so that the next row is this request's next position.
    fn sample_row(&mut self, id: RequestId, row: usize) -> ControlFlow<()> {
        let stream = self.streams.get_mut(&id).expect("sampled requests have a stream");
        let position = stream.history.tokens().len();
        let Some((token, logprobs)) = stream.next_token(self.logits.row_mut(row), position) else {
            self.fail(id, "the model produced no finite logits for the next token".into());
            return ControlFlow::Break(());
        };
        stream.history.push(token);
        stream.first_token.get_or_insert_with(&self.clock);
        let guessed = self.scheduler.push(id, token);
        self.totals.generation_tokens += 1;
        self.totals.accepted_draft_tokens += u64::from(guessed);
        if (stream.sink)(Event::Token { token, logprobs }) == ControlFlow::Break(()) {
            self.finish(id, FinishReason::Aborted);
            return ControlFlow::Break(());
        }
        let length = stream.prompt_tokens + stream.history.tokens().len();
        if let Some(reason) = end_of(&stream.stop, stream.history.tokens(), length, self.max_model_len) {
            self.finish(id, reason);
            return ControlFlow::Break(());
        }
        if guessed { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn finish(&mut self, id: RequestId, reason: FinishReason) {
        if let Some(mut stream) = self.close(id) {
            let usage = stream.usage((self.clock)());
            let _ = (stream.sink)(Event::Finished { reason, usage });
        }
    }

    fn fail(&mut self, id: RequestId, message: String) {
        if let Some(mut stream) = self.close(id) {
            let _ = (stream.sink)(Event::Failed { message });
        }
    }

    /// Releases everything a request holds. The blocks are free before the sink hears of the end.
    fn close(&mut self, id: RequestId) -> Option<Stream> {
        self.scheduler.remove(id);
        let stream = self.streams.remove(&id)?;
        if stream.started.is_none() {
            self.shared.started();
        }
        let pool = self.scheduler.pool();
        self.shared.publish(self.scheduler.running(), self.scheduler.waiting(), pool.used(), self.totals);
        Some(stream)
    }
}

impl Stream {
    /// Chooses from raw logits, which are changed on the way.
    fn next_token(
        &mut self,
        logits: &mut [f32],
        position: usize,
    ) -> Option<(u32, Option<crate::request::Logprobs>)> {
        let raw = self.logprobs.map(|_| logits.to_vec());
        sampler::adjust(logits, &self.sampling, &self.history);
        if let Some(hook) = &mut self.hook {
            hook(self.history.tokens(), logits);
        }
        if position < self.stop.min_tokens {
            for token in self.stop.stop_tokens.iter().chain(&self.stop.eos_tokens) {
                if let Some(logit) = logits.get_mut(*token as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        let token = sampler::choose(logits, &self.sampling, position as u64)?;
        let logprobs = raw.zip(self.logprobs).map(|(raw, top)| sampler::logprobs(&raw, token, top));
        Some((token, logprobs))
    }

    /// Most tokens that may still be generated.
    fn tokens_left(&self, max_model_len: usize) -> usize {
        let generated = self.history.tokens().len();
        (self.stop.max_tokens - generated).min(max_model_len - self.prompt_tokens - generated)
    }

    fn usage(&self, now: Instant) -> Usage {
        let started = self.started.unwrap_or(now);
        let first = self.first_token.unwrap_or(now);
        Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            generated_tokens: self.history.tokens().len(),
            queue_seconds: started.saturating_duration_since(self.submitted).as_secs_f64(),
            prefill_seconds: first.saturating_duration_since(started).as_secs_f64(),
            decode_seconds: now.saturating_duration_since(first).as_secs_f64(),
        }
    }
}

/// Why generation ends after the last of `generated`, if it does. `length` counts prompt and answer.
fn end_of(
    stop: &StopConditions,
    generated: &[u32],
    length: usize,
    max_model_len: usize,
) -> Option<FinishReason> {
    let last = generated.last()?;
    let enough = generated.len() > stop.min_tokens;
    if enough && (stop.stop_tokens.contains(last) || !stop.ignore_eos && stop.eos_tokens.contains(last)) {
        return Some(FinishReason::Stop);
    }
    (generated.len() >= stop.max_tokens || length >= max_model_len).then_some(FinishReason::Length)
}

#[cfg(test)]
mod tests;
