//! Streams that have to wait: a comment now and then, so that no proxy in between and no client takes the connection for dead.
//!
//! Whoever gets a comment has got a 200: a failure after that is an `error` event. So it is off unless configured, and begins only when the
//! wait has lasted a while.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};
use tracing::Instrument;
use wharf_api::{ApiError, sse};

use super::{Accepted, Worker, with_standing};
use crate::answer::{Answer, BodyError};
use crate::config::seconds;

const WAITING: &[u8] = b": waiting for the model\n\n";

type Piece = Result<Bytes, BodyError>;

/// The answer to a request that streams.
pub(super) async fn answer(worker: Worker, accepted: Accepted) -> Result<Response<Answer>, ApiError> {
    let progress = accepted.served.service.hold_config(worker.shared.config.hold).progress;
    let standing = accepted.standing.clone();
    let mut dispatch = Box::pin(async move { worker.dispatch(accepted).await }.in_current_span());
    let every = seconds(progress);
    if every.is_zero() {
        return dispatch.await.map(|response| with_standing(response, &standing));
    }
    if let Ok(answer) = timeout(every, &mut dispatch).await {
        return answer.map(|response| with_standing(response, &standing));
    }
    let (sender, pieces) = mpsc::channel::<Piece>(1);
    tokio::spawn(async move {
        let mut tick = interval(every);
        let answer = loop {
            tokio::select! {
                answer = &mut dispatch => break answer,
                // The client has left, and `dispatch` is dropped with what it holds.
                () = sender.closed() => return,
                _ = tick.tick() => {
                    if sender.send(Ok(Bytes::from_static(WAITING))).await.is_err() {
                        return;
                    }
                }
            }
        };
        pass(answer, &sender).await;
    });
    let mut response = Response::new(Answer::sent(pieces));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(with_standing(response, &standing))
}

async fn pass(answer: Result<Response<Answer>, ApiError>, sender: &mpsc::Sender<Piece>) {
    let end = match answer {
        Ok(response) => match response.body().bytes() {
            // An endpoint's refusal: one JSON object.
            Some(body) => [b"data: ", &body[..], b"\n\n", sse::DONE.as_bytes()].concat(),
            None => {
                let mut body = response.into_body();
                while let Some(frame) = body.frame().await {
                    let piece = frame.map(|frame| frame.into_data().unwrap_or_default());
                    if sender.send(piece).await.is_err() {
                        return;
                    }
                }
                return;
            }
        },
        Err(error) => {
            [sse::frame(&error.body()).unwrap_or_default().as_bytes(), sse::DONE.as_bytes()].concat()
        }
    };
    // Nobody is left to read it if this fails.
    let _ = sender.send(Ok(Bytes::from(end))).await;
}
