//! A body on its way from a client to an endpoint: piece by piece, no faster than the endpoint takes it, and never whole unless it is a body.
//!
//! Its beginning is kept until something else was read: so long a try that fails can be followed by another one. After that the only copy is
//! with the endpoint. A client is given its time only while the endpoint waits for it; an endpoint that takes nothing is not waited for long.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use wharf_api::ApiError;

use crate::request::{Chunks, Rest};

/// A client that has been answered while it sends may send for so long: a connection that is closed with unread bytes is reset, and the
/// client would not see the answer.
const LINGER: Duration = Duration::from_secs(5);

/// A body as endpoints get it.
pub(crate) enum Payload {
    /// All of it is here.
    Whole(Chunks),
    /// It passes while it arrives.
    Passing(Arc<Upload>),
}

/// A body whose beginning has been read.
pub(crate) struct Upload(Mutex<State>);

struct State {
    /// Until all was read.
    client: Option<Incoming>,
    rest: Rest,
    /// The beginning as it goes on, while it is all that has gone on.
    beginning: Option<Chunks>,
    /// Read and not yet taken.
    ready: Chunks,
    /// Bytes that were read.
    received: usize,
    /// Bytes that there may be.
    limit: usize,
    /// What the client had in all.
    time: Duration,
    patience: Patience,
    /// Wakes when the client has been waited for too long.
    alarm: Option<Pin<Box<Sleep>>>,
    waits: Waits,
    end: Option<End>,
}

/// Who is waited for.
#[derive(Clone, Copy)]
enum Waits {
    Nobody,
    Client,
    /// The endpoint, which has taken nothing since.
    Endpoint(Instant),
}

/// How the body ended.
enum End {
    Whole,
    Failed(Failure),
}

/// Why a body did not become whole.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The client is told this.
    Refused(ApiError),
    /// The client has left, or has broken off.
    Left,
}

/// How long a client may still be waited for.
struct Patience {
    left: Duration,
    /// It is waited for since then.
    since: Option<Instant>,
}

/// What is to be done with a body.
pub(crate) struct Terms {
    /// Bytes that it may have.
    pub(crate) limit: usize,
    /// How long the client may take.
    pub(crate) time: Duration,
    /// How much of that is left.
    pub(crate) left: Duration,
}

impl Upload {
    /// A body of which `received` bytes have been read, which may go on as `beginning`.
    pub(crate) fn new(
        client: Incoming,
        rest: Rest,
        beginning: Chunks,
        received: usize,
        terms: Terms,
    ) -> Upload {
        let Terms { limit, time, left } = terms;
        Upload(Mutex::new(State {
            client: Some(client),
            rest,
            beginning: Some(beginning),
            ready: Chunks::default(),
            received,
            limit,
            time,
            patience: Patience { left, since: None },
            alarm: None,
            waits: Waits::Nobody,
            end: None,
        }))
    }

    /// Whether all that has gone on can go on again.
    fn is_kept(&self) -> bool {
        self.state().beginning.is_some()
    }

    /// Why it did not become whole, if that is known.
    fn failure(&self) -> Option<Failure> {
        match &self.state().end {
            Some(End::Failed(failure)) => Some(failure.clone()),
            Some(End::Whole) | None => None,
        }
    }

    /// Whether what a stream took is for us alone, and the bytes of the prompt.
    pub(crate) fn facts(&self) -> (bool, usize) {
        let state = self.state();
        (state.rest.hides_usage(), state.rest.prompt_bytes())
    }

    /// Returns when the endpoint has taken nothing for so long, though there was something to take.
    pub(crate) async fn stalled(&self, limit: Duration) {
        loop {
            let waits = self.state().waits;
            let until = match waits {
                Waits::Endpoint(since) if since.elapsed() >= limit => return,
                Waits::Endpoint(since) => since + limit,
                Waits::Client | Waits::Nobody => Instant::now() + limit,
            };
            sleep_until(until).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(client) = self.state().client.take() {
            linger(client);
        }
    }
}

/// Reads what a client still sends that has its answer, and forgets it.
pub(crate) fn linger(mut client: Incoming) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(async move {
        // Whatever it is that ends it: nobody asks.
        let _ = timeout(LINGER, async { while let Some(Ok(_)) = client.frame().await {} }).await;
    });
}

/// What the client of a body is told that broke off.
pub(crate) fn broke_off() -> ApiError {
    ApiError::InvalidRequest { message: "the request's body broke off".to_owned(), param: None, code: None }
}

impl State {
    /// The next piece for the endpoint.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        loop {
            if let Some(piece) = self.ready.pop() {
                self.waits = Waits::Endpoint(Instant::now());
                return Poll::Ready(Some(Ok(piece)));
            }
            let client = match (&self.end, &mut self.client) {
                (Some(End::Whole), _) => return Poll::Ready(None),
                (None, Some(client)) => client,
                (Some(End::Failed(_)), _) | (None, None) => return Poll::Ready(Some(Err(Broken))),
            };
            match Pin::new(client).poll_frame(context) {
                Poll::Ready(frame) => {
                    self.patience.stop(Instant::now());
                    if let Some(end) = self.read(frame) {
                        self.end(end);
                    }
                }
                Poll::Pending => {
                    self.waits = Waits::Client;
                    ready!(self.poll_alarm(context));
                    let error = ApiError::BodyTimeout { seconds: self.time.as_secs() };
                    self.end(refused(error));
                }
            }
        }
    }

    /// Ready when the client has been waited for too long.
    fn poll_alarm(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(until) = self.patience.start(Instant::now()) {
            self.alarm.get_or_insert_with(|| Box::pin(sleep_until(until))).as_mut().reset(until);
        }
        self.alarm.as_mut().map_or(Poll::Pending, |alarm| alarm.as_mut().poll(context))
    }

    /// Takes in what the client has sent; how the body has ended, if it has.
    fn read(&mut self, frame: Option<Result<Frame<Bytes>, hyper::Error>>) -> Option<End> {
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return Some(End::Failed(Failure::Left)),
            None => return Some(self.rest.finish().map_or_else(refused, |()| End::Whole)),
        };
        // Trailers say nothing that endpoints read.
        let piece = frame.into_data().ok()?;
        self.received += piece.len();
        if self.received > self.limit {
            return Some(refused(ApiError::BodyTooLarge { limit: self.limit as u64 }));
        }
        self.beginning = None;
        match self.rest.push(piece) {
            Ok(passes) => {
                self.ready = passes;
                None
            }
            Err(error) => Some(refused(error)),
        }
    }

    fn end(&mut self, end: End) {
        // Who is refused in the middle goes on sending.
        if !matches!(end, End::Failed(Failure::Refused(_))) {
            self.client = None;
        }
        self.waits = Waits::Nobody;
        self.end = Some(end);
    }
}

fn refused(error: ApiError) -> End {
    End::Failed(Failure::Refused(error))
}

impl Patience {
    /// The client is waited for; until when, if it was not before.
    fn start(&mut self, now: Instant) -> Option<Instant> {
        if self.since.is_some() {
            return None;
        }
        self.since = Some(now);
        Some(now + self.left)
    }

    /// The client has sent something.
    fn stop(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(now - since);
        }
    }
}

impl Payload {
    /// Whether it can be sent again, whatever of it was sent.
    pub(crate) fn is_kept(&self) -> bool {
        match self {
            Payload::Whole(_) => true,
            Payload::Passing(upload) => upload.is_kept(),
        }
    }

    /// Why it did not become whole, if that is known.
    pub(crate) fn failure(&self) -> Option<Failure> {
        match self {
            Payload::Whole(_) => None,
            Payload::Passing(upload) => upload.failure(),
        }
    }

    /// For one try.
    pub(crate) fn sending(&self) -> Sending {
        match self {
            Payload::Whole(chunks) => Sending::Whole(chunks.clone()),
            Payload::Passing(upload) => {
                let mut state = upload.state();
                state.waits = Waits::Endpoint(Instant::now());
                let beginning =
                    state.beginning.clone().expect("who tries again asks before whether it is kept");
                Sending::Passing(Passing { upload: Arc::clone(upload), beginning })
            }
        }
    }
}

/// A body that one endpoint is sent.
pub(crate) enum Sending {
    /// All of it is here.
    Whole(Chunks),
    /// It passes while it arrives.
    Passing(Passing),
}

/// A body that passes.
pub(crate) struct Passing {
    upload: Arc<Upload>,
    beginning: Chunks,
}

/// There is no more, and what there was is no body. It ends the connection to the endpoint.
#[derive(Debug, thiserror::Error)]
#[error("the client's body did not become whole")]
pub(crate) struct Broken;

impl Passing {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let mut state = self.upload.state();
        match self.beginning.pop() {
            Some(piece) => {
                state.waits = Waits::Endpoint(Instant::now());
                Poll::Ready(Some(Ok(piece)))
            }
            None => state.poll(context),
        }
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let piece = match self.get_mut() {
            Sending::Whole(chunks) => Poll::Ready(chunks.pop().map(Ok)),
            Sending::Passing(passing) => passing.poll(context),
        };
        piece.map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Sending::Whole(chunks) => chunks.is_empty(),
            Sending::Passing(_) => false,
        }
    }

    /// The length of what passes is nobody's to promise: its end says that it is whole.
    fn size_hint(&self) -> SizeHint {
        match self {
            Sending::Whole(chunks) => SizeHint::with_exact(chunks.len() as u64),
            Sending::Passing(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_s_time_runs_only_while_it_is_waited_for() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut patience = Patience { left: Duration::from_secs(10), since: None };
        assert_eq!(patience.start(at(0)), Some(at(10)));
        assert_eq!(patience.start(at(2)), None, "it is waited for already");
        patience.stop(at(3));
        patience.stop(at(50));
        assert_eq!(patience.start(at(100)), Some(at(107)));
        patience.stop(at(120));
        assert_eq!(patience.start(at(121)), Some(at(121)));
    }
}
