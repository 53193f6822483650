//! An answer as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::header::CACHE_CONTROL;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use wharf_api::openai::{StreamOptions, Usage};
use wharf_api::{ApiError, sse};

use crate::choices::{Choices, Piece};
use crate::respond::with_type;

/// Silence after which a comment is sent, so that proxies do not take the stream for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How an endpoint words its chunks.
pub(crate) trait Wording: Send + 'static {
    /// One chunk.
    type Chunk: Serialize;
    /// Chunks for a piece; more than one when something comes before the first text.
    fn piece(&mut self, piece: Piece, usage: Option<Usage>) -> Vec<Self::Chunk>;
    /// The chunk that has the usage and no choices.
    fn usage(&self, usage: Usage) -> Self::Chunk;
}

struct State<W> {
    choices: Option<Choices>,
    wording: W,
    options: StreamOptions,
    pending: VecDeque<Bytes>,
}

/// The response that streams `choices`.
pub(crate) fn response<W: Wording>(choices: Choices, wording: W, options: StreamOptions) -> Response {
    let state = State { choices: Some(choices), wording, options, pending: VecDeque::new() };
    let frames = stream::unfold(state, |mut state| async move {
        let frame = state.next().await?;
        Some((Ok::<_, Infallible>(frame), state))
    });
    let mut response = with_type(StatusCode::OK, "text/event-stream", Body::from_stream(frames));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx buffers responses unless told otherwise.
    let no_buffering = HeaderName::from_static("x-accel-buffering");
    response.headers_mut().insert(no_buffering, HeaderValue::from_static("no"));
    response
}

impl<W: Wording> State<W> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.pending.pop_front() {
                return Some(frame);
            }
            let choices = self.choices.as_mut()?;
            let Ok(news) = tokio::time::timeout(KEEP_ALIVE, choices.next()).await else {
                return Some(Bytes::from_static(sse::KEEP_ALIVE.as_bytes()));
            };
            match news {
                Some(Ok(piece)) => {
                    let usage = self.options.continuous_usage_stats.then_some(piece.usage);
                    for chunk in self.wording.piece(piece, usage) {
                        self.push(&chunk);
                    }
                }
                Some(Err(error)) => self.end_with(&error),
                None => {
                    let usage = choices.usage();
                    if self.options.include_usage {
                        let chunk = self.wording.usage(usage);
                        self.push(&chunk);
                    }
                    self.pending.push_back(Bytes::from_static(sse::DONE.as_bytes()));
                    self.choices = None;
                }
            }
        }
    }

    fn push(&mut self, chunk: &impl Serialize) {
        match sse::frame(chunk) {
            Ok(frame) => self.pending.push_back(frame.into()),
            Err(e) => self.end_with(&ApiError::Internal(format!("failed to serialise a chunk: {e}"))),
        }
    }

    /// A cut stream ends with an error event and without `[DONE]`.
    fn end_with(&mut self, error: &ApiError) {
        if let Ok(frame) = sse::frame(&error.body()) {
            self.pending.push_back(frame.into());
        }
        self.choices = None;
    }
}
