//! The choices of one request: submitted to the engine, followed to their end, turned from tokens into text.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use wharf_api::ApiError;
use wharf_api::openai::Usage;
use wharf_engine::{
    EngineHandle, Event, FinishReason, Logprobs, Request, RequestId, StopConditions, SubmitError,
    Usage as EngineUsage,
};

use wharf_model::tokenizer::StreamStart;
use wharf_telemetry::log::milliseconds;
use wharf_telemetry::trace::{Part, Trace};

use crate::middleware::{CLIENT_LEFT, Followed};
use crate::prepare::Plan;
use crate::record;
use crate::spans::{self, Completed};
use crate::state::{App, RETRY_AFTER_SECONDS};
use crate::stop::{StopMatcher, StopStrings};
use crate::text::{Decoder, Text};

/// What to generate, for [`Choices::submit`].
pub(crate) struct Job {
    /// Tokens and answer limit of each prompt.
    pub(crate) prompts: Vec<(Vec<u32>, usize)>,
    /// Choices per prompt.
    pub(crate) n: usize,
    pub(crate) plan: Plan,
    pub(crate) logprobs: Option<usize>,
    pub(crate) stop: Vec<String>,
    pub(crate) include_stop: bool,
    pub(crate) skip_special: bool,
    pub(crate) start: StreamStart,
    /// Name of the field that holds the prompt, for errors.
    pub(crate) param: &'static str,
    /// The answer's head is sent before the answer is whole.
    pub(crate) streams: bool,
    pub(crate) arrived: Instant,
    pub(crate) followed: Followed,
}

/// News of one choice.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Prompt's index times `n`, plus the choice's.
    pub(crate) index: usize,
    /// Text that is new; may be empty.
    pub(crate) text: String,
    /// The token's log-probabilities, if asked for.
    pub(crate) logprobs: Option<(u32, Logprobs)>,
    /// Set in the choice's last piece: `stop` or `length`.
    pub(crate) finish: Option<&'static str>,
    /// Usage of the whole request so far.
    pub(crate) usage: Usage,
}

/// All choices of a request. Dropping it aborts what still runs, so a client that goes away frees its KV blocks.
pub(crate) struct Choices {
    app: Arc<App>,
    engine: EngineHandle,
    events: mpsc::UnboundedReceiver<(usize, Event)>,
    aborted: watch::Receiver<bool>,
    choices: Vec<Choice>,
    prompt_tokens: usize,
    n: usize,
    /// Choices whose `Finished` has not come.
    open: usize,
    arrived: Instant,
    /// When the first token came.
    first: Option<Instant>,
    /// When the engine got them.
    submitted: Instant,
    streams: bool,
    /// `chat` or `text_completion`.
    operation: &'static str,
    trace: Trace,
    /// What the engine did for the choices that have ended.
    parts: Vec<Part>,
    /// Why the answer broke off.
    broken: Option<String>,
    outcome: &'static str,
    /// What the client is told, as far as it is known.
    status: u16,
    /// Why the last choice ended that has.
    finish: Option<&'static str>,
    span: tracing::Span,
}

struct Choice {
    id: RequestId,
    decoder: Decoder,
    stop: StopMatcher,
    /// The request's, for all choices; `max_tokens` is the engine's business.
    ends: Arc<StopConditions>,
    include_stop: bool,
    generated: usize,
    cached: usize,
    last_token: Option<Instant>,
    /// The reason that the client was told.
    finish: Option<&'static str>,
    /// The engine is done with it.
    closed: bool,
}

impl Choices {
    /// Hands all choices to the engine. All are accepted or none.
    pub(crate) fn submit(
        app: &Arc<App>,
        engine: &EngineHandle,
        text: &Text,
        job: Job,
    ) -> Result<Choices, ApiError> {
        let (total, most) = (job.prompts.len().saturating_mul(job.n), app.config.max_waiting);
        if total > most {
            let message = format!("the request has {total} choices; at most {most} may wait at a time");
            return Err(ApiError::invalid(if job.n > 1 { "n" } else { job.param }, message));
        }
        let (sender, events) = mpsc::unbounded_channel();
        let mut all = Choices {
            app: Arc::clone(app),
            engine: engine.clone(),
            events,
            aborted: app.aborted(),
            choices: Vec::new(),
            prompt_tokens: job.prompts.iter().map(|(prompt, _)| prompt.len()).sum(),
            n: job.n,
            open: 0,
            arrived: job.arrived,
            first: None,
            submitted: Instant::now(),
            streams: job.streams,
            operation: if job.param == "messages" { "chat" } else { "text_completion" },
            trace: Trace::default(),
            parts: Vec::new(),
            broken: None,
            outcome: "cancelled",
            status: CLIENT_LEFT,
            finish: None,
            span: tracing::Span::current(),
        };
        let ends = Arc::new(job.plan.stop);
        let stops = StopStrings::new(&job.stop);
        for (prompt, max_tokens) in &job.prompts {
            for choice in 0..job.n {
                let index = all.choices.len();
                let mut sampling = job.plan.sampling.clone();
                sampling.seed = job.plan.first_seed.wrapping_add(choice as u64);
                let sender = sender.clone();
                let request = Request {
                    prompt: prompt.clone(),
                    sampling,
                    stop: StopConditions { max_tokens: *max_tokens, ..(*ends).clone() },
                    logprobs: job.logprobs,
                    cache_salt: job.plan.cache_salt,
                    logits_hook: None,
                    sink: Box::new(move |event| match sender.send((index, event)) {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(()),
                    }),
                };
                // An error drops `all`, which aborts the choices that were accepted before.
                let id = engine.submit(request).map_err(|e| {
                    all.outcome = "refused";
                    refused(e, job.param)
                })?;
                all.open += 1;
                all.choices.push(Choice {
                    id,
                    decoder: text.decoder(job.skip_special, job.start),
                    stop: StopMatcher::new(stops.clone(), job.include_stop),
                    ends: Arc::clone(&ends),
                    include_stop: job.include_stop,
                    generated: 0,
                    cached: 0,
                    last_token: None,
                    finish: None,
                    closed: false,
                });
            }
        }
        all.trace = job.followed.take_over();
        Ok(all)
    }

    /// The next news, or `None` when every choice has ended and its usage is known. Nothing is lost when the
    /// future is dropped before it is ready.
    pub(crate) async fn next(&mut self) -> Option<Result<Piece, ApiError>> {
        loop {
            if self.open == 0 {
                (self.outcome, self.status) = ("finished", 200);
                return None;
            }
            let event = tokio::select! {
                biased;
                _ = self.aborted.wait_for(|aborted| *aborted) => {
                    Err("the server is shutting down before the answer was complete")
                }
                event = self.events.recv() => event.ok_or("the engine has stopped"),
            };
            let (index, event) = match event {
                Ok(event) => event,
                Err(reason) => {
                    let reason = reason.to_owned();
                    let retry_after_seconds = RETRY_AFTER_SECONDS;
                    return Some(Err(self.fail(ApiError::Unavailable { reason, retry_after_seconds })));
                }
            };
            match self.take(index, event) {
                Ok(Some(piece)) => return Some(Ok(piece)),
                Ok(None) => {}
                Err(error) => return Some(Err(self.fail(error))),
            }
        }
    }

    /// Token counts so far; prompts count once, whatever `n`.
    pub(crate) fn usage(&self) -> Usage {
        let cached = self.choices.iter().step_by(self.n).map(|choice| choice.cached).sum();
        Usage::new(self.prompt_tokens, cached, self.choices.iter().map(|choice| choice.generated).sum())
    }

    fn take(&mut self, index: usize, event: Event) -> Result<Option<Piece>, ApiError> {
        let choice = &mut self.choices[index];
        let (text, logprobs) = match event {
            Event::Token { token, logprobs } => {
                // A stop string has ended the choice; the engine did not know yet.
                if choice.finish.is_some() {
                    return Ok(None);
                }
                let now = Instant::now();
                self.first.get_or_insert(now);
                record::token(&self.app, self.arrived, choice.last_token.replace(now), now);
                choice.generated += 1;
                (choice.text_of(token), logprobs.map(|logprobs| (token, logprobs)))
            }
            Event::Finished { reason, usage } => {
                choice.closed = true;
                choice.cached = usage.cached_tokens;
                self.open -= 1;
                if self.trace.is_kept() {
                    self.parts.extend(spans::parts(self.submitted, index, &usage));
                }
                let told = choice.finish;
                let word = match (told, reason) {
                    (Some(word), _) => word,
                    (None, FinishReason::Stop) => "stop",
                    (None, FinishReason::Length) => "length",
                    (None, FinishReason::Aborted) => {
                        record::finished(&self.app, "abort", &usage, self.arrived);
                        return Err(ApiError::Internal("the engine gave the request up".to_owned()));
                    }
                };
                self.finish = Some(word);
                let usage = EngineUsage { generated_tokens: choice.generated, ..usage };
                record::finished(&self.app, word, &usage, self.arrived);
                if told.is_some() {
                    return Ok(None);
                }
                choice.finish = Some(word);
                let mut rest =
                    choice.decoder.flush().map_or_else(String::new, |rest| choice.stop.push(&rest).text);
                rest.push_str(&choice.stop.flush());
                return Ok(Some(Piece {
                    index,
                    text: rest,
                    logprobs: None,
                    finish: Some(word),
                    usage: self.usage(),
                }));
            }
            Event::Failed { message } => {
                choice.closed = true;
                self.open -= 1;
                record::failed(&self.app);
                return Err(ApiError::Internal(message));
            }
            Event::Lost { message } => {
                choice.closed = true;
                self.open -= 1;
                record::failed(&self.app);
                return Err(ApiError::Unavailable {
                    reason: message,
                    retry_after_seconds: RETRY_AFTER_SECONDS,
                });
            }
        };
        if choice.finish.is_some() {
            self.engine.abort(choice.id);
        }
        if text.is_empty() && logprobs.is_none() && choice.finish.is_none() {
            return Ok(None);
        }
        let finish = choice.finish;
        Ok(Some(Piece { index, text, logprobs, finish, usage: self.usage() }))
    }

    fn fail(&mut self, error: ApiError) -> ApiError {
        self.outcome = "failed";
        self.status = if self.streams { 200 } else { error.status() };
        self.broken = Some(error.to_string());
        self.span.in_scope(|| tracing::warn!(error = %error, "the answer broke off"));
        self.abort_open();
        error
    }

    fn abort_open(&mut self) {
        for choice in self.choices.iter_mut().filter(|choice| !choice.closed) {
            self.engine.abort(choice.id);
        }
    }
}

impl Choice {
    /// Text that a token adds; sets `finish` when it completes a stop string.
    fn text_of(&mut self, token: u32) -> String {
        let eos = !self.ends.ignore_eos && self.ends.eos_tokens.contains(&token);
        let stop_token = self.ends.stop_tokens.contains(&token);
        // `Finished` follows at once.
        if eos || (stop_token && !self.include_stop) {
            return String::new();
        }
        let Some(text) = self.decoder.push(token) else { return String::new() };
        let passed = if self.generated <= self.ends.min_tokens && self.ends.min_tokens > 0 {
            self.stop.pass(&text)
        } else {
            self.stop.push(&text)
        };
        if passed.stopped {
            self.finish = Some("stop");
        }
        passed.text
    }
}

impl Drop for Choices {
    fn drop(&mut self) {
        self.abort_open();
        if self.outcome == "cancelled" {
            record::cancelled(&self.app, self.open);
        }
        // A refused request is told by whoever tells the client.
        if self.outcome == "refused" {
            return;
        }
        let usage = self.usage();
        self.span.in_scope(|| {
            tracing::info!(
                model = self.app.model_name,
                status = self.status,
                ttft_ms = self.first.map(|first| milliseconds(first - self.arrived)),
                duration_ms = milliseconds(self.arrived.elapsed()),
                prompt_tokens = usage.prompt_tokens,
                completion_tokens = usage.completion_tokens,
                finish_reason = self.finish,
                cached_tokens = usage.prompt_tokens_details.cached_tokens,
                outcome = self.outcome,
                "request ended"
            );
        });
        if self.trace.is_kept() {
            let completed = Completed {
                operation: self.operation,
                model: &self.app.model_name,
                status: self.status,
                finish: self.choices.iter().filter_map(|choice| choice.finish).collect(),
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                first: self.first.map(|first| first - self.arrived),
                error: self.broken.as_deref(),
            };
            self.trace.end(completed.ended(), std::mem::take(&mut self.parts));
        }
    }
}

fn refused(error: SubmitError, param: &'static str) -> ApiError {
    match error {
        SubmitError::QueueFull { .. } => ApiError::Overloaded { retry_after_seconds: RETRY_AFTER_SECONDS },
        SubmitError::PromptTooLong { .. } => {
            ApiError::ContextLengthExceeded { message: error.to_string(), param }
        }
        SubmitError::Invalid(message) => ApiError::InvalidRequest { message, param: None, code: None },
        SubmitError::Stopped => {
            ApiError::Unavailable { reason: error.to_string(), retry_after_seconds: RETRY_AFTER_SECONDS }
        }
    }
}
