//! What clients get: whole bodies made here, answers on their way through, and answers that are not there yet.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use serde::Serialize;
use tokio::sync::mpsc;
use wharf_api::ApiError;

use crate::relay::Relay;
use crate::serve::Running;
use crate::shared::Shared;

/// Why a body broke off; the connection ends with it.
pub(crate) type BodyError = Box<dyn Error + Send + Sync>;

/// A response's body, and the request that is running until it has been sent.
pub(crate) struct Answer {
    content: Content,
    /// Only to be dropped with the body.
    _running: Option<Running>,
}

/// A response's body.
enum Content {
    /// All of it.
    Whole(Option<Bytes>),
    /// An endpoint's, while it arrives.
    Relay(Box<Relay>),
    /// Somebody else sends it.
    Sent(mpsc::Receiver<Result<Bytes, BodyError>>),
}

impl Answer {
    /// No body.
    pub(crate) fn empty() -> Answer {
        Answer { content: Content::Whole(None), _running: None }
    }

    /// All of a body.
    pub(crate) fn whole(bytes: Bytes) -> Answer {
        Answer { content: Content::Whole(Some(bytes)), _running: None }
    }

    /// An endpoint's answer.
    pub(crate) fn relay(relay: Relay) -> Answer {
        Answer { content: Content::Relay(Box::new(relay)), _running: None }
    }

    /// What somebody else sends.
    pub(crate) fn sent(pieces: mpsc::Receiver<Result<Bytes, BodyError>>) -> Answer {
        Answer { content: Content::Sent(pieces), _running: None }
    }

    /// The request counts as running until this has been sent.
    pub(crate) fn counted(self, running: Running) -> Answer {
        Answer { _running: Some(running), ..self }
    }

    /// The body, if all of it is here.
    pub(crate) fn bytes(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Whole(bytes) => bytes.as_ref(),
            Content::Relay(_) | Content::Sent(_) => None,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let piece = match &mut self.content {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(Ok)),
            Content::Relay(relay) => relay.poll(context),
            Content::Sent(pieces) => pieces.poll_recv(context),
        };
        piece.map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Content::Relay(relay) => relay.size_hint(),
            Content::Sent(_) => SizeHint::default(),
        }
    }
}

/// A 200 with JSON.
pub(crate) fn json(value: &impl Serialize) -> Response<Answer> {
    json_with(StatusCode::OK, value)
}

/// A 200 with JSON that is written already.
pub(crate) fn json_bytes(bytes: Bytes) -> Response<Answer> {
    with_type(StatusCode::OK, "application/json", bytes)
}

/// An error in OpenAI's form.
pub(crate) fn failure(error: &ApiError) -> Response<Answer> {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_with(status, &error.body());
    if let Some(seconds) = error.retry_after_seconds() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Whether requests should come here.
pub(crate) fn readiness(shared: &Shared) -> Response<Answer> {
    if shared.is_draining() {
        return failure(&stopping());
    }
    if !shared.is_settled() {
        let reason = "the gateway waits to hear of the others what keys have used".to_owned();
        return failure(&ApiError::Unavailable { reason, retry_after_seconds: 1 });
    }
    Response::new(Answer::empty())
}

/// What new requests are told while running ones end.
pub(crate) fn stopping() -> ApiError {
    ApiError::Unavailable { reason: "the gateway is stopping".to_owned(), retry_after_seconds: 1 }
}

/// A 200 with text.
pub(crate) fn text(media_type: &'static str, text: String) -> Response<Answer> {
    with_type(StatusCode::OK, media_type, Bytes::from(text))
}

fn json_with(status: StatusCode, value: &impl Serialize) -> Response<Answer> {
    // Our own types hold nothing that JSON has no form for.
    with_type(status, "application/json", serde_json::to_vec(value).unwrap_or_default().into())
}

fn with_type(status: StatusCode, media_type: &'static str, body: Bytes) -> Response<Answer> {
    let mut response = Response::new(Answer::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
