//! Reading a request's body: whole, bounded in size and time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use tokio::time::timeout;
use wharf_api::{ApiError, ServeConfig};

/// How much of a body that is too large is thrown away, and for how long, before the refusal is sent: clients that
/// write without reading would otherwise see a reset connection in place of the answer.
const DISCARD_FACTOR: u64 = 16;
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Reads the whole body.
///
/// # Errors
/// [`ApiError::BodyTooLarge`], [`ApiError::BodyTimeout`], or [`ApiError::InvalidRequest`] when the connection
/// breaks.
pub(crate) async fn read(request: Request<Body>, config: &ServeConfig) -> Result<Bytes, ApiError> {
    let limit = config.max_body_bytes.0;
    let time = Duration::from_secs_f64(config.body_timeout_seconds);
    let too_large = ApiError::BodyTooLarge { limit };
    let announced = content_length(request.headers());
    let asks_first = request.headers().contains_key(EXPECT);
    let mut body = request.into_body();
    if announced.is_some_and(|length| length > limit) {
        // A client that asks first (`100-continue`) has sent nothing yet, and reading would invite it to.
        if !asks_first {
            discard(&mut body, limit).await;
        }
        return Err(too_large);
    }
    match timeout(time, collect(&mut body, limit)).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => {
            discard(&mut body, limit).await;
            Err(too_large)
        }
        Ok(Err(e)) => Err(ApiError::InvalidRequest {
            message: format!("failed to read the request body: {e}"),
            param: None,
            code: None,
        }),
        Err(_) => Err(ApiError::BodyTimeout { seconds: time.as_secs() }),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `None` when there are more than `limit` bytes. Memory grows with what arrives, not with what was announced.
async fn collect(body: &mut Body, limit: u64) -> Result<Option<Bytes>, axum::Error> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if (bytes.len() + data.len()) as u64 > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some(bytes.freeze()))
}

async fn discard(body: &mut Body, limit: u64) {
    let mut left = limit.saturating_mul(DISCARD_FACTOR);
    let all = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // Whether the rest arrived or not, the refusal is what comes next.
    let _ = timeout(DISCARD_TIME, all).await;
}
