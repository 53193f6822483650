//! Carries out the steps of an answer, and records how it ended, whoever ended it.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::fault::Target;
use super::log::Outcome;
use super::script::{Script, Step};
use super::slots::Slot;
use crate::wire::{Body, Connection, lock};

/// What was sent before a cut is written meanwhile, and read: not every system keeps what a reset peer has not read yet.
const PEER_READS: Duration = Duration::from_millis(20);

/// An answer that is being given. Dropping it ends it.
pub(super) struct Player {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: Arc<Connection>,
    /// Until it has ended.
    pub(super) number: Option<u64>,
    pub(super) target: Target,
    /// Where it waits for a slot, if it needs one.
    pub(super) line: Option<oneshot::Receiver<Slot>>,
    pub(super) slot: Option<Slot>,
    pub(super) prompt_tokens: usize,
    pub(super) made: usize,
    pub(super) arrived: Instant,
    pub(super) finish: Option<&'static str>,
}

impl Player {
    /// Plays until the head, then answers with a body that plays the rest.
    pub(super) async fn play(mut self, script: Script) -> Response<Body> {
        let Script { status, headers, before, body, finish } = script;
        self.finish = finish;
        for step in before {
            self.step(step).await;
        }
        let state = (self, VecDeque::from(body));
        let frames = stream::unfold(state, move |(mut player, mut steps)| async move {
            while let Some(step) = steps.pop_front() {
                if let Some(bytes) = player.step(step).await {
                    // When the last bytes are handed over, the answer is whole; a client may end the connection then.
                    if steps.iter().all(|step| matches!(step, Step::Wait(_))) {
                        player.end(Outcome::Answered { status });
                    }
                    return Some((Ok::<_, io::Error>(Frame::data(bytes)), (player, steps)));
                }
            }
            player.end(Outcome::Answered { status });
            None
        });
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().append(HeaderName::from_static(name), value);
            }
        }
        response
    }

    /// Carries out one step; what is to be sent is given back.
    async fn step(&mut self, step: Step) -> Option<Bytes> {
        match step {
            Step::Send(bytes) => return Some(bytes),
            Step::Slot => self.take_slot().await,
            Step::Wait(time) if time.is_zero() => {}
            Step::Wait(time) => sleep(time).await,
            Step::Made(tokens) => self.make(tokens),
            Step::Stall => pending().await,
            Step::Close => {
                self.cut(Connection::close).await;
            }
            Step::Reset => {
                self.cut(Connection::reset).await;
            }
        }
        None
    }

    async fn take_slot(&mut self) {
        if let Some(line) = self.line.take() {
            self.slot = line.await.ok();
            lock(&self.shared.meter).held_tokens += self.prompt_tokens;
            self.shared.changed();
        }
    }

    fn make(&mut self, tokens: usize) {
        {
            let mut meter = lock(&self.shared.meter);
            if self.made == 0 {
                meter.first_token.record(self.arrived.elapsed());
            }
            meter.generated_tokens += tokens as u64;
            meter.held_tokens += tokens;
        }
        self.made += tokens;
        self.shared.changed();
    }

    /// Never returns: the connection's end drops this future.
    async fn cut(&mut self, how: fn(&Connection)) {
        sleep(PEER_READS).await;
        how(&self.connection);
        pending().await
    }

    fn end(&mut self, outcome: Outcome) {
        let Some(number) = self.number.take() else { return };
        lock(&self.shared.log).end(number, self.target, outcome);
        self.line = None;
        if self.slot.take().is_some() {
            let mut meter = lock(&self.shared.meter);
            meter.held_tokens -= self.prompt_tokens + self.made;
            meter.whole.record(self.arrived.elapsed());
            let answered = matches!(outcome, Outcome::Answered { .. });
            let reason = self.finish.filter(|_| answered).unwrap_or("abort");
            *meter.finished.entry(reason).or_default() += 1;
        }
        self.shared.changed();
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.end(if self.connection.is_cut() { Outcome::Cut } else { Outcome::Abandoned });
    }
}
