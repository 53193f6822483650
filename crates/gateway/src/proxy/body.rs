//! Reading a client's body: whole, within its time and its size.

use std::pin::pin;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;
use wharf_api::ApiError;

use crate::request::{Call, Reader};

/// What the body asks for.
pub(super) async fn read(
    body: Incoming,
    content_type: &[u8],
    limit: usize,
    time: Duration,
) -> Result<Call, ApiError> {
    let too_large = || ApiError::BodyTooLarge { limit: limit as u64 };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut reader = Reader::new(content_type);
    let mut body = pin!(body);
    let all = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ApiError::InvalidRequest {
                message: "the request's body broke off".to_owned(),
                param: None,
                code: None,
            })?;
            if let Ok(piece) = frame.into_data() {
                reader.push(piece);
                if reader.len() > limit {
                    return Err(too_large());
                }
            }
        }
        Ok(())
    };
    timeout(time, all).await.map_err(|_| ApiError::BodyTimeout { seconds: time.as_secs() })??;
    reader.finish()
}
